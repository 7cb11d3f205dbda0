/*
 * stamp: writes sequence-stamped blocks across several disks, and checks that copies of
 * those disks were all taken at one instant. Built as `stamp` (runs in the guest, writes) and
 * called as `stampcheck` (runs anywhere, verifies).
 *
 *   stamp [-n COUNT] [-s SLOTS] TARGET...     write forever, or COUNT blocks; goes on after the highest
 *                                             number found, so it can be stopped and started again
 *   stampcheck IMAGE...                       raw images, in the order the targets were given
 *
 * A target is a block device, or a file, made large enough where it is not. With K targets of S slots
 * each, block number n (0, 1, 2, ...) goes to target n % K, slot (n / K) % S, at byte slot * 4096. It is
 * written with O_DIRECT|O_DSYNC, and number n + 1 is not begun before n is complete. So at every
 * instant there is one N such that the disks hold the newest number of each slot up to N, and nothing else.
 * stampcheck finds N as the highest number present and demands exactly that of every slot of every image:
 * a copy that is older or newer on one disk than on another, a lost write or a torn block, all fail.
 *
 * Block, 4096 bytes, little endian u64 words:
 *   0 magic "SRSTAMP1"   1 number n   2 target index   3 K   4 S   5..510 mix(n, word index)
 *   511 xor of words 0..510. A slot never written is 4096 zero bytes (stamp clears the first one's
 *   magic only by writing; give it blank disks).
 *
 * stampcheck prints `ok N=<n> disks=<k> slots=<s> last=<n>@disk<d>` (exit 0), or each
 * deviation (first 10) and `BAD ...` (exit 1). Exit 2: could not look, or no stamps at all.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <linux/fs.h>

#define BLOCK 4096
#define WORDS (BLOCK / 8)
#define MAX_TARGETS 16
#define DEFAULT_SLOTS 2048 /* 8 MiB a disk: wraps quickly, so that old blocks are overwritten too */

static const uint64_t MAGIC = 0x31504d4154535253ULL; /* "SRSTAMP1" */

static uint64_t mix(uint64_t n, uint64_t i)
{
	uint64_t z = n * 0x9e3779b97f4a7c15ULL + i * 0xbf58476d1ce4e5b9ULL + 1;
	z = (z ^ (z >> 30)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static void fill(uint64_t *w, uint64_t n, uint64_t disk, uint64_t disks, uint64_t slots)
{
	uint64_t sum = 0;
	w[0] = MAGIC, w[1] = n, w[2] = disk, w[3] = disks, w[4] = slots;
	for (int i = 5; i < WORDS - 1; i++)
		w[i] = mix(n, i);
	for (int i = 0; i < WORDS - 1; i++)
		sum ^= w[i];
	w[WORDS - 1] = sum;
}

static int is_zero(const uint64_t *w)
{
	for (int i = 0; i < WORDS; i++)
		if (w[i])
			return 0;
	return 1;
}

static void die(int code, const char *what, const char *name)
{
	fprintf(stderr, "stamp: %s: %s%s%s\n", name, what, errno ? ": " : "", errno ? strerror(errno) : "");
	exit(code);
}

static void read_block(int fd, uint64_t *w, uint64_t slot, const char *name)
{
	errno = 0;
	if (pread(fd, w, BLOCK, slot * BLOCK) != BLOCK)
		die(2, "cannot read a slot", name);
}

static int write_forever(char **names, int k, uint64_t slots, uint64_t count)
{
	int fd[MAX_TARGETS];
	uint64_t *w, next = 0;

	if (posix_memalign((void **)&w, BLOCK, BLOCK))
		die(2, "no memory", names[0]);
	for (int d = 0; d < k; d++) {
		struct stat st;
		uint64_t size;
		fd[d] = open(names[d], O_RDWR | O_CREAT | O_CLOEXEC | O_DIRECT | O_DSYNC, 0644);
		if (fd[d] < 0 || fstat(fd[d], &st))
			die(2, "cannot open", names[d]);
		size = st.st_size;
		if (S_ISBLK(st.st_mode) && ioctl(fd[d], BLKGETSIZE64, &size))
			die(2, "cannot tell the size", names[d]);
		/* Files are filled with real zeroes first, so that no write allocates. */
		if (S_ISREG(st.st_mode) && size < slots * BLOCK) {
			memset(w, 0, BLOCK);
			for (uint64_t s = size / BLOCK; s < slots; s++)
				if (pwrite(fd[d], w, BLOCK, s * BLOCK) != BLOCK)
					die(2, "cannot write", names[d]);
		} else if (size < slots * BLOCK) {
			errno = 0;
			die(2, "smaller than the slots asked for", names[d]);
		}
	}
	for (int d = 0; d < k; d++)
		for (uint64_t s = 0; s < slots; s++) {
			read_block(fd[d], w, s, names[d]);
			if (w[0] == MAGIC && w[1] + 1 > next)
				next = w[1] + 1;
			else if (w[0] != MAGIC)
				break; /* slots are first filled in order */
		}
	printf("stamp: from %" PRIu64 " on %d disks, %" PRIu64 " slots\n", next, k, slots);
	fflush(stdout);
	for (uint64_t end = count ? next + count : UINT64_MAX; next < end; next++) {
		int d = next % k;
		fill(w, next, d, k, slots);
		if (pwrite(fd[d], w, BLOCK, next / k % slots * BLOCK) != BLOCK)
			die(2, "cannot write", names[d]);
	}
	printf("stamp: wrote up to %" PRIu64 "\n", next - 1);
	return 0;
}

static int check(char **names, int k)
{
	static uint64_t w[WORDS], want[WORDS];
	int fd[MAX_TARGETS], bad = 0, found = 0;
	uint64_t newest = 0, slots = 0;

	for (int d = 0; d < k; d++) {
		fd[d] = open(names[d], O_RDONLY | O_CLOEXEC);
		if (fd[d] < 0)
			die(2, "cannot open", names[d]);
	}
	read_block(fd[0], w, 0, names[0]);
	errno = 0;
	if (w[0] != MAGIC)
		die(2, "no stamp in its first block", names[0]);
	if (w[3] != (uint64_t)k)
		die(2, "was stamped with another number of disks", names[0]);
	slots = w[4];
	for (int d = 0; d < k; d++)
		for (uint64_t s = 0; s < slots; s++) {
			read_block(fd[d], w, s, names[d]);
			if (w[0] == MAGIC && (!found || w[1] > newest))
				newest = w[1], found = 1;
		}
	for (int d = 0; d < k; d++)
		for (uint64_t s = 0; s < slots; s++) {
			/* The largest n <= newest with n % k == d and n / k % slots == s, if any. */
			uint64_t first = s * k + d, period = slots * k, n;
			read_block(fd[d], w, s, names[d]);
			if (first > newest) {
				if (is_zero(w))
					continue;
				if (bad++ < 10)
					printf("disk%d slot %" PRIu64 ": expected zeroes\n", d, s);
				continue;
			}
			n = first + (newest - first) / period * period;
			fill(want, n, d, k, slots);
			if (!memcmp(w, want, BLOCK))
				continue;
			if (bad++ < 10)
				printf("disk%d slot %" PRIu64 ": expected number %" PRIu64 ", has %s %" PRIu64 "\n",
				       d, s, n, w[0] != MAGIC ? "no stamp, word 1 is" : w[1] == n ? "a torn" : "number", w[1]);
		}
	if (bad) {
		printf("BAD %d blocks deviate from the instant N=%" PRIu64 "\n", bad, newest);
		return 1;
	}
	printf("ok N=%" PRIu64 " disks=%d slots=%" PRIu64 " last=%" PRIu64 "@disk%d\n", newest, k, slots, newest,
	       (int)(newest % k));
	return 0;
}

int main(int argc, char **argv)
{
	const char *base = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
	int checking = !strcmp(base, "stampcheck"), opt;
	uint64_t slots = DEFAULT_SLOTS, count = 0;

	while ((opt = getopt(argc, argv, "n:s:")) != -1) {
		char *end = NULL;
		uint64_t v = (opt == 'n' || opt == 's') ? strtoull(optarg, &end, 10) : 0;
		if (!end || *end || !v)
			optind = argc;
		*(opt == 'n' ? &count : &slots) = v;
	}
	if (optind >= argc || argc - optind > MAX_TARGETS) {
		fprintf(stderr, "usage: stamp [-n COUNT] [-s SLOTS] TARGET...\n       stampcheck IMAGE...\n");
		return 2;
	}
	argv += optind, argc -= optind;
	return checking ? check(argv, argc) : write_forever(argv, argc, slots, count);
}
