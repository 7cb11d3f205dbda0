//! Speaks with the extension over its own virtio-serial port. What comes is a guest's: lines that are not understood, or
//! answer somebody else, are passed over; all of it is bounded in size and time.

use crate::limits::{GUEST_ANSWER_BYTES_MAX, GUEST_PORT_BYTES_MAX};
use serde::de::DeserializeOwned;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use strongroom_guest::wire::{Answer, PORT_NAME, Request, Verb};

/// The host's end of the port, where the guest's is open: only the definition of a running machine says so.
pub fn path_in(document: &roxmltree::Document<'_>) -> Option<PathBuf> {
    document.descendants().filter(|n| n.has_tag_name("channel")).find_map(|channel| {
        let child = |name: &str| channel.children().find(|n| n.has_tag_name(name));
        let target = child("target")?;
        let is_ours = channel.attribute("type") == Some("unix")
            && target.attribute("name") == Some(PORT_NAME)
            && target.attribute("state") == Some("connected");
        is_ours.then(|| child("source")?.attribute("path").map(PathBuf::from))?
    })
}

pub struct Port {
    stream: UnixStream,
    next_id: u64,
    /// What came behind the last answer.
    rest: Vec<u8>,
}

impl Port {
    pub fn open(path: &Path) -> Result<Self, String> {
        let stream = UnixStream::connect(path)
            .map_err(|e| format!("the extension's port {} cannot be opened: {e}", path.display()))?;
        // Not one that an answer to an earlier host could have.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(Self { stream, next_id: (now.as_nanos() as u64) << 8, rest: Vec::new() })
    }

    /// Asks, and waits for the answer.
    pub fn call<T: DeserializeOwned>(
        &mut self,
        verb: Verb,
        session: &str,
        timeout: Duration,
    ) -> Result<T, String> {
        let until = Instant::now() + timeout;
        self.next_id += 1;
        let request = Request { id: self.next_id, verb, session: session.into() };
        let mut line = serde_json::to_vec(&request).map_err(|e| e.to_string())?;
        line.push(b'\n');
        let broken = |e: std::io::Error| format!("the extension's port is broken: {e}");
        self.stream.set_write_timeout(Some(Duration::from_secs(5))).map_err(broken)?;
        self.stream.write_all(&line).map_err(broken)?;
        let mut seen = 0;
        let mut buffer = [0; 16 << 10];
        loop {
            while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let Ok(answer) = serde_json::from_slice::<Answer>(&line) else { continue };
                if answer.id != request.id {
                    continue;
                }
                return match (answer.value, answer.error) {
                    (Some(value), None) => serde_json::from_value(value)
                        .map_err(|e| format!("the extension's answer is not understood: {e}")),
                    (_, Some(error)) => Err(crate::text::shorten(&error)),
                    (None, None) => Err("the extension's answer is empty".into()),
                };
            }
            if self.rest.len() > GUEST_ANSWER_BYTES_MAX || seen > GUEST_PORT_BYTES_MAX {
                return Err("the extension says more than is listened to".into());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("the extension did not answer within {timeout:?}"));
            }
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).map_err(broken)?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err("the machine closed the extension's port".into()),
                Ok(count) => {
                    seen += count;
                    self.rest.extend(&buffer[..count]);
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(broken(e)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use strongroom_guest::wire::Frozen;

    /// What a guest that says `lines` is taken for; `%` stands for the id that was asked with.
    fn asked(lines: &'static [&'static str], close: bool) -> Result<Frozen, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("port");
        let listener = UnixListener::bind(&path).unwrap();
        let guest = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).unwrap();
            let request: Request = serde_json::from_slice(&buffer[..count]).unwrap();
            for line in lines {
                let text = line.replace('%', &request.id.to_string()).replace('@', &"x".repeat(1 << 20));
                if stream.write_all(text.as_bytes()).is_err() {
                    return;
                }
            }
            if !close {
                let _ = stream.read(&mut buffer);
            }
        });
        let mut port = Port::open(&path).unwrap();
        // Only for who says nothing is the time to run out.
        let patience = Duration::from_millis(if lines.is_empty() && !close { 400 } else { 60_000 });
        let answer = port.call(Verb::Freeze, "", patience);
        drop(port);
        guest.join().unwrap();
        answer
    }

    #[test]
    fn hostile_guests() {
        let good = asked(
            &[
                "garbage\n\u{0}\n{}\n[1]\n{\"id\":1,\"value\":{\"count\":9}}\n",
                "{\"id\":%,\"value\":{\"count\"",
                ":3}}\n{\"id\":%}\n",
            ],
            false,
        );
        assert_eq!(
            good.unwrap().count,
            3,
            "others' ids and garbage are passed over; what comes twice is not read"
        );
        for (lines, close, words) in [
            (&[][..], false, "did not answer"),
            (&[], true, "closed"),
            (&["{\"id\":%}\n"], false, "empty"),
            (&["{\"id\":%,\"value\":7}\n"], false, "not understood"),
            (&["{\"id\":%,\"error\":\"no\\u0007\"}\n"], false, "no"),
            (&["@", "@", "@", "@"], false, "more than"),
            (&["@\n", "@\n", "@\n", "@\n", "@\n", "@\n", "@\n", "@\n", "@\n"], false, "more than"),
        ] {
            let why = asked(lines, close).unwrap_err();
            assert!(why.contains(words), "{words}: {why}");
        }
    }

    #[test]
    fn only_an_open_port_is_spoken_to() {
        let xml = |state: &str| {
            format!(
                "<domain><devices><channel type='unix'><source mode='bind' path='/a'/><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel><channel type='unix'><source mode='bind' path='/b'/><target type='virtio' name='org.strongroom.guest.0'{state}/></channel></devices></domain>"
            )
        };
        let find = |text: &str| path_in(&roxmltree::Document::parse(text).unwrap());
        assert_eq!(find(&xml(" state='connected'")), Some("/b".into()));
        assert_eq!(find(&xml(" state='disconnected'")), None);
        assert_eq!(find(&xml("")), None);
    }
}
