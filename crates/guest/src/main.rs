//! `strongroom-guest`: the extension inside machines. Its calls answer one JSON document.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use strongroom_guest::hold::Hold;
use strongroom_guest::limits::HOLD_LIMIT_SECONDS;
use strongroom_guest::phases::{self, Options};
use strongroom_guest::{port, sys, warden, wire};

const USAGE: &str =
    "strongroom-guest: runs scripts before and after a backup takes its snapshot of this machine

  strongroom-guest version
  strongroom-guest prepare --session ID [--config FILE] [--host-config FILE] [--run DIR] [--limit SECONDS]
                           [--only MOUNT]... [--agent-state DIR]
  strongroom-guest finish --session ID [--run DIR]
  strongroom-guest hold [--limit SECONDS] [--only MOUNT]...       frozen until the end of its input
  strongroom-guest serve [--port FILE] [the options of prepare]   over the machine's own virtio-serial port

Strongroom calls it; there is no need to. Each call answers one JSON document.
";

struct Arguments {
    verb: String,
    session: String,
    port: PathBuf,
    options: Options,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let verb = words.next().ok_or("what is to be done?")?;
    let mut parsed =
        Arguments { verb, session: String::new(), port: port::default_path(), options: Options::default() };
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let options = &mut parsed.options;
        match word.as_str() {
            "--session" => parsed.session = value,
            "--port" => parsed.port = value.into(),
            "--config" => options.places.config = value.into(),
            "--host-config" => options.places.host_config = value.into(),
            "--run" => options.run_directory = value.into(),
            "--only" => options.watch.only.push(value.into()),
            "--agent-state" => options.watch.agent_state = Some(value.into()),
            "--limit" => {
                let seconds = value.parse().ok().filter(|s| (1..=HOLD_LIMIT_SECONDS).contains(s));
                let seconds = seconds.ok_or_else(|| {
                    format!("--limit {value}: a number of seconds up to {HOLD_LIMIT_SECONDS}")
                })?;
                options.watch.limit = Duration::from_secs(seconds.into());
            }
            _ => return Err(format!("there is no option {word}")),
        }
    }
    Ok(parsed)
}

fn print(document: &impl serde::Serialize) -> Result<(), String> {
    let mut text = serde_json::to_vec(document).map_err(|e| e.to_string())?;
    text.push(b'\n');
    let mut out = std::io::stdout();
    out.write_all(&text).and_then(|()| out.flush()).map_err(|e| e.to_string())
}

/// Frozen until the end of input, or of the time.
fn hold(options: &Options) -> Result<(), String> {
    let watch = &options.watch;
    let (hold, frozen) = Hold::begin(&warden::file_systems(&watch.only), watch.limit)?;
    // A reader that is gone is no reason to leave anything frozen: the drop thaws.
    print(&frozen)?;
    let mut scrap = [0; 64];
    while hold.is_held() {
        let [input] = sys::wait([0], Duration::from_millis(50));
        if input != 0 && !matches!(std::io::stdin().read(&mut scrap), Ok(count) if count > 0) {
            break;
        }
    }
    let held = hold.is_held();
    let mut thawed = hold.end();
    thawed.expired |= !held;
    print(&thawed)
}

fn run(arguments: &Arguments) -> Result<(), String> {
    match arguments.verb.as_str() {
        "version" => print(&serde_json::json!({ "version": wire::VERSION })),
        "prepare" => print(&phases::prepare(&arguments.session, &arguments.options)?),
        "finish" => print(&phases::finish(&arguments.session, &arguments.options.run_directory)?),
        "hold" => hold(&arguments.options),
        "serve" => port::serve(&arguments.port, &arguments.options),
        verb => Err(format!("there is no `{verb}`\n\n{USAGE}")),
    }
}

fn main() -> ExitCode {
    let words = std::env::args_os().skip(1).map(|w| w.to_string_lossy().into_owned());
    let arguments = match parse(words) {
        Ok(arguments) => arguments,
        Err(why) => {
            let _ = write!(std::io::stderr(), "strongroom-guest: {why}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "strongroom-guest: {why}");
            ExitCode::FAILURE
        }
    }
}
