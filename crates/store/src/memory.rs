//! Large buffers in large pages: the first touch of a small page costs as much as the copying into it.

use rustix::mm::{Advice, madvise};

/// What the processors we know of call a large page.
const LARGE_PAGE_BYTES: usize = 2 << 20;

/// An empty buffer with room for `capacity` bytes, in large pages where the kernel gives any.
pub fn large_buffer(capacity: usize) -> Vec<u8> {
    let mut buffer: Vec<u8> = Vec::with_capacity(capacity);
    let start = buffer.as_mut_ptr();
    let skip = start.align_offset(LARGE_PAGE_BYTES);
    let length = buffer.capacity().saturating_sub(skip) / LARGE_PAGE_BYTES * LARGE_PAGE_BYTES;
    if length > 0 {
        // SAFETY: the range lies within the buffer's own allocation, and the advice changes none of its contents. That
        // it stays after the buffer is freed does no harm. Refused, all goes on with small pages.
        #[allow(unsafe_code)]
        let _ = unsafe { madvise(start.add(skip).cast(), length, Advice::LinuxHugepage) };
    }
    buffer
}
