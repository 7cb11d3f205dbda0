//! How many of what proves by numbers: few in `make test`, others each day, and all of them in `make soak` (docs/testing.md).
//! Included by the tests of several crates.
#![allow(dead_code)]

fn is_soak() -> bool {
    std::env::var_os("STRONGROOM_SOAK").is_some_and(|value| value == "1")
}

/// The one in `make test`, the other in `make soak`.
pub fn number<T>(few: T, all_of_them: T) -> T {
    if is_soak() { all_of_them } else { few }
}

/// In `make test` those of one day or those of the other, in `make soak` all; STRONGROOM_TEST_SEED stands for a day.
pub fn every_other<T: Copy>(all_of_them: &[T]) -> Vec<T> {
    let today = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        since.as_secs() as usize / 86_400
    };
    let told = std::env::var("STRONGROOM_TEST_SEED").ok();
    let seed = told.map_or_else(today, |seed| seed.parse().expect("STRONGROOM_TEST_SEED is a number"));
    eprintln!("seed {seed} (STRONGROOM_TEST_SEED={seed} repeats it)");
    let (first, step) = number((seed % 2, 2), (0, 1));
    all_of_them.iter().copied().skip(first).step_by(step).collect()
}
