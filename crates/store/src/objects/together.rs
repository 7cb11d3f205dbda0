//! Several questions to a store that is far away, asked at once: what takes as long as one.
//!
//! The answers are kept with a handle of the store of their own, which gives them to whoever asks the same by it. So who asks
//! decides how long they hold: as long as he uses that handle. What is written by it is asked anew.

use super::ObjectInfo;
use super::error::ObjectError;
use super::kind::Kind;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Threads that ask at once.
const ASKED_AT_ONCE: usize = 16;

type Result<T> = std::result::Result<T, ObjectError>;

/// What is to be asked at once.
#[derive(Clone, Debug, Default)]
pub struct Questions(Vec<Question>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Get(String, u64),
    Head(String),
    List(String),
}

impl Questions {
    /// A whole object of at most so many bytes: as `BlobStore::get_bounded` with the same bound.
    pub fn get(self, name: impl Into<String>, max_bytes: u64) -> Self {
        self.ask(Question::Get(name.into(), max_bytes))
    }

    /// As `BlobStore::head`.
    pub fn head(self, name: impl Into<String>) -> Self {
        self.ask(Question::Head(name.into()))
    }

    /// As `BlobStore::list`.
    pub fn list(self, prefix: impl Into<String>) -> Self {
        self.ask(Question::List(prefix.into()))
    }

    /// These too.
    pub fn and(self, others: Self) -> Self {
        others.0.into_iter().fold(self, Self::ask)
    }

    fn ask(mut self, question: Question) -> Self {
        if !self.0.contains(&question) {
            self.0.push(question);
        }
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Clone, Default)]
struct Known {
    gets: HashMap<String, (u64, Result<Bytes>)>,
    heads: HashMap<String, Result<Option<ObjectInfo>>>,
    lists: HashMap<String, Result<Vec<ObjectInfo>>>,
}

/// What was answered.
#[derive(Default)]
pub(super) struct Answers(Mutex<Known>);

impl Answers {
    /// Asks, all at once, what `before` does not know.
    pub fn to(questions: Questions, before: Option<&Self>, ask: impl Fn(&Question) -> Answer + Sync) -> Self {
        let mut known = before.map_or_else(Known::default, |before| before.0.lock().clone());
        let new: Vec<Question> = questions
            .0
            .into_iter()
            .filter(|question| match question {
                Question::Get(name, max) => known.gets.get(name).is_none_or(|(of, _)| of != max),
                Question::Head(name) => !known.heads.contains_key(name),
                Question::List(prefix) => !known.lists.contains_key(bare(prefix)),
            })
            .collect();
        let answers = all_at_once(&new, ask);
        for (question, answer) in new.into_iter().zip(answers) {
            // What failed is asked anew by who wants to know.
            if answer.failed() {
                continue;
            }
            match (question, answer) {
                (Question::Get(name, max), Answer::Get(answer)) => {
                    known.gets.insert(name, (max, answer));
                }
                (Question::Head(name), Answer::Head(answer)) => {
                    known.heads.insert(name, answer);
                }
                (Question::List(prefix), Answer::List(answer)) => {
                    known.lists.insert(bare(&prefix).to_owned(), answer);
                }
                _ => {}
            }
        }
        Self(Mutex::new(known))
    }

    pub fn get(&self, name: &str, max_bytes: u64) -> Option<Result<Bytes>> {
        let known = self.0.lock();
        known.gets.get(name).filter(|(max, _)| *max == max_bytes).map(|(_, answer)| answer.clone())
    }

    pub fn head(&self, name: &str) -> Option<Result<Option<ObjectInfo>>> {
        self.0.lock().heads.get(name).cloned()
    }

    pub fn list(&self, prefix: &str) -> Option<Result<Vec<ObjectInfo>>> {
        self.0.lock().lists.get(bare(prefix)).cloned()
    }

    /// An object was written or deleted, or may have been.
    pub fn forget(&self, name: &str) {
        let mut known = self.0.lock();
        known.gets.remove(name);
        known.heads.remove(name);
        known.lists.retain(|prefix, _| !name.starts_with(prefix.as_str()));
    }
}

pub(super) enum Answer {
    Get(Result<Bytes>),
    Head(Result<Option<ObjectInfo>>),
    List(Result<Vec<ObjectInfo>>),
}

impl Answer {
    fn failed(&self) -> bool {
        let error = match self {
            Self::Get(answer) => answer.as_ref().err(),
            Self::Head(answer) => answer.as_ref().err(),
            Self::List(answer) => answer.as_ref().err(),
        };
        error.is_some_and(|error| !matches!(error.kind, Kind::NotFound | Kind::TooLarge))
    }
}

fn bare(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

/// Does something with each of `items`, several at once. The results are in the order of `items`.
fn all_at_once<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let all = try_all_at_once(true, items, |item| Ok::<_, Infallible>(work(item)), |_| false);
    all.into_iter().flatten().flatten().collect()
}

/// The same with what may fail; `at_once`, or one after the other. After an error that is the end, nothing is begun any more; that
/// error is the answer.
pub(crate) fn try_all_at_once<T: Sync, R: Send, E: Send>(
    at_once: bool,
    items: &[T],
    work: impl Fn(&T) -> std::result::Result<R, E> + Sync,
    is_end: impl Fn(&E) -> bool + Sync,
) -> std::result::Result<Vec<std::result::Result<R, E>>, E> {
    let next = AtomicUsize::new(0);
    let mut results: Vec<Option<std::result::Result<R, E>>> = items.iter().map(|_| None).collect();
    let slots: Vec<Mutex<&mut Option<_>>> = results.iter_mut().map(Mutex::new).collect();
    let worker = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let (Some(item), Some(slot)) = (items.get(at), slots.get(at)) else { return };
            let result = work(item);
            if result.as_ref().is_err_and(&is_end) {
                next.store(items.len(), Ordering::Relaxed);
            }
            **slot.lock() = Some(result);
        }
    };
    if at_once && items.len() > 1 {
        std::thread::scope(|scope| {
            for _ in 1..items.len().min(ASKED_AT_ONCE) {
                // Without more threads this one does it all.
                let _ = std::thread::Builder::new().spawn_scoped(scope, worker);
            }
            worker();
        });
    } else {
        worker();
    }
    drop(slots);
    let mut done = Vec::with_capacity(items.len());
    for result in results.into_iter().flatten() {
        match result {
            Err(error) if is_end(&error) => return Err(error),
            result => done.push(result),
        }
    }
    Ok(done)
}
