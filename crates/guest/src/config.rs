//! Azure's configuration of scripts: `VMSnapshotScriptPluginConfig.json`, and `VMSnapshotPluginHost.conf` where it is present.
//! The names of keys, what holds when one is absent, and the bounds are Azure's. What cannot be understood is a problem
//! with its code, and never half taken.

use crate::limits::*;
use crate::text::plain;
use crate::trusted::{self, Refusal, Use};
use crate::wire::{Code, Problem};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where Azure's framework has its configuration.
pub const CONFIG_PATH: &str = "/etc/azure/VMSnapshotScriptPluginConfig.json";
/// Its second file, which is not everywhere.
pub const HOST_CONFIG_PATH: &str = "/etc/azure/VMSnapshotPluginHost.conf";

/// One of the two scripts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// The script's file.
    pub location: PathBuf,
    /// What it is called with.
    pub parameters: Vec<String>,
    /// How often it is tried again.
    pub retries: u64,
}

/// What the user wants done around a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Before the snapshot.
    pub pre: Script,
    /// After it.
    pub post: Script,
    /// Each script's, with all its retries.
    pub timeout_seconds: u64,
    /// Whether there is to be a backup though a script failed.
    pub continue_on_failure: bool,
    /// Whether file systems are frozen.
    pub freeze: bool,
    /// How often a running script is looked at.
    pub poll_seconds: u64,
}

/// Where configurations are.
#[derive(Debug, Clone)]
pub struct Places {
    /// The configuration.
    pub config: PathBuf,
    /// The second one.
    pub host_config: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self { config: CONFIG_PATH.into(), host_config: HOST_CONFIG_PATH.into() }
    }
}

/// Reads both. `Ok(None)`: no scripts are configured.
pub fn load(places: &Places, warnings: &mut Vec<String>) -> Result<Option<Config>, Problem> {
    let host = match read(&places.host_config) {
        Ok(text) => parse_host(&text, warnings).map_err(|why| {
            let shown = places.host_config.display();
            Problem::new(Code::HostConfigUnreadable, format!("`{shown}` is not understood: {why}"))
        })?,
        Err(Refusal::NotFound(_)) => HostConfig::default(),
        Err(why @ Refusal::Untrusted(_)) => {
            return Err(Problem::new(Code::HostConfigPermissions, why.to_string()));
        }
        Err(why) => return Err(Problem::new(Code::HostConfigUnreadable, why.to_string())),
    };
    let path = host.config_path.as_deref().unwrap_or(&places.config);
    let text = match read(path) {
        Ok(text) => text,
        Err(Refusal::NotFound(_)) => return Ok(None),
        Err(why @ Refusal::Untrusted(_)) => {
            return Err(Problem::new(Code::ConfigPermissions, why.to_string()));
        }
        Err(why) => return Err(Problem::new(Code::ConfigUnreadable, why.to_string())),
    };
    let mut config = parse(&text, warnings).map_err(|mut problem| {
        problem.message = format!("`{}`: {}", path.display(), problem.message);
        problem
    })?;
    if let Some(most) = host.timeout_seconds
        && config.timeout_seconds > most
    {
        warnings.push(format!(
            "timeoutInSeconds is {}, more than the {most} of {}: scripts have {most} seconds",
            config.timeout_seconds,
            places.host_config.display()
        ));
        config.timeout_seconds = most;
    }
    Ok(Some(config))
}

fn read(path: &Path) -> Result<String, Refusal> {
    let other = |why: String| Refusal::Other(format!("`{}` {why}", path.display()));
    let file = trusted::open(path, Use::Read)?;
    let mut bytes = Vec::new();
    file.take(CONFIG_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| other(format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        return Err(other(format!("is larger than {CONFIG_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| other("is not UTF-8 text".into()))
}

const KEYS: [&str; 11] = [
    "pluginName",
    "preScriptLocation",
    "postScriptLocation",
    "preScriptParams",
    "postScriptParams",
    "preScriptNoOfRetries",
    "postScriptNoOfRetries",
    "timeoutInSeconds",
    "continueBackupOnFailure",
    "fsFreezeEnabled",
    "ScriptsExecutionPollTimeSeconds",
];

/// Reads a configuration. Keys that are not known are passed over, with a warning.
pub fn parse(text: &str, warnings: &mut Vec<String>) -> Result<Config, Problem> {
    let unreadable = |why: String| Problem::new(Code::ConfigUnreadable, why);
    let document: Value = serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|e| unreadable(format!("it is not JSON: {e}")))?;
    let Value::Object(keys) = document else {
        return Err(unreadable("it is not a JSON object".into()));
    };
    let unknown: Vec<&str> = keys.keys().map(String::as_str).filter(|k| !KEYS.contains(k)).take(8).collect();
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.iter().map(|k| format!("`{}`", plain(k, 64))).collect();
        warnings.push(format!("keys of the script configuration that are not known: {}", names.join(", ")));
    }
    let pre = script(&keys, "pre", warnings)?;
    let post = script(&keys, "post", warnings)?;
    let seconds = number(&keys, "timeoutInSeconds", SCRIPT_SECONDS_DEFAULT).map_err(unreadable)?;
    let poll = number(&keys, "ScriptsExecutionPollTimeSeconds", POLL_SECONDS_DEFAULT).map_err(unreadable)?;
    Ok(Config {
        pre,
        post,
        timeout_seconds: within("timeoutInSeconds", seconds, 1, SCRIPT_SECONDS_MAX, warnings),
        continue_on_failure: flag(&keys, "continueBackupOnFailure").map_err(unreadable)?,
        freeze: flag(&keys, "fsFreezeEnabled").map_err(unreadable)?,
        poll_seconds: within(
            "ScriptsExecutionPollTimeSeconds",
            poll,
            POLL_SECONDS_MIN,
            POLL_SECONDS_MAX,
            warnings,
        ),
    })
}

fn script(keys: &Map<String, Value>, which: &str, warnings: &mut Vec<String>) -> Result<Script, Problem> {
    let unreadable = |why: String| Problem::new(Code::ConfigUnreadable, why);
    let key = format!("{which}ScriptLocation");
    let missing = || Problem::new(Code::LocationMissing, format!("{key} is missing"));
    let location = match keys.get(&key) {
        None | Some(Value::Null) => return Err(missing()),
        Some(Value::String(text)) if text.trim().is_empty() => return Err(missing()),
        Some(Value::String(text)) => PathBuf::from(text),
        Some(_) => return Err(unreadable(format!("{key} is not a string"))),
    };
    if !location.is_absolute() || location.as_os_str().len() > PATH_BYTES_MAX {
        return Err(unreadable(format!("{key} is not an absolute path")));
    }
    let key = format!("{which}ScriptParams");
    let parameters = match keys.get(&key) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) if list.len() <= PARAMETERS_MAX => list
            .iter()
            .map(|value| match value {
                Value::String(text) if text.len() <= PARAMETER_BYTES_MAX && !text.contains('\0') => {
                    Ok(text.clone())
                }
                Value::Number(number) => Ok(number.to_string()),
                _ => Err(unreadable(format!("{key} has an entry that is not a (short) string"))),
            })
            .collect::<Result<_, _>>()?,
        Some(Value::Array(_)) => {
            return Err(unreadable(format!("{key} has more than {PARAMETERS_MAX} entries")));
        }
        Some(_) => return Err(unreadable(format!("{key} is not a list of strings"))),
    };
    let key = format!("{which}ScriptNoOfRetries");
    let retries = number(keys, &key, 0).map_err(unreadable)?;
    Ok(Script { location, parameters, retries: within(&key, retries, 0, RETRIES_MAX, warnings) })
}

fn number(keys: &Map<String, Value>, key: &str, default: u64) -> Result<u64, String> {
    match keys.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => {
            let text = value.as_str().map(str::trim);
            value
                .as_u64()
                .or_else(|| text.and_then(|t| t.parse().ok()))
                .ok_or_else(|| format!("{key} is not a whole number"))
        }
    }
}

fn flag(keys: &Map<String, Value>, key: &str) -> Result<bool, String> {
    match keys.get(key) {
        None | Some(Value::Null) => Ok(true),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(format!("{key} is neither true nor false")),
    }
}

fn within(key: &str, value: u64, least: u64, most: u64, warnings: &mut Vec<String>) -> u64 {
    let taken = value.clamp(least, most);
    if taken != value {
        warnings.push(format!("{key} is {value}; {taken} is taken, since it can be {least} to {most}"));
    }
    taken
}

/// What is used of `VMSnapshotPluginHost.conf`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// The most that a script may take.
    pub timeout_seconds: Option<u64>,
    /// Where the first plugin's configuration is.
    pub config_path: Option<PathBuf>,
}

/// Reads the host file: sections, and `name = value` or `name: value`, in any case.
pub fn parse_host(text: &str, warnings: &mut Vec<String>) -> Result<HostConfig, String> {
    let mut host = HostConfig::default();
    let mut section = String::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            let name = name.strip_suffix(']').ok_or_else(|| format!("line {} has no `]`", index + 1))?;
            section = name.trim().to_ascii_lowercase();
            continue;
        }
        let (name, value) =
            line.split_once(['=', ':']).ok_or_else(|| format!("line {} has no `=`", index + 1))?;
        if section.is_empty() {
            return Err(format!("line {} comes before any section", index + 1));
        }
        if section != "pre_post" {
            continue;
        }
        let value = value.trim();
        let count = |least: u64| {
            value
                .parse::<u64>()
                .ok()
                .filter(|n| *n >= least)
                .ok_or_else(|| format!("{} is not a number", name.trim()))
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "timeoutinseconds" => host.timeout_seconds = Some(count(1)?.min(SCRIPT_SECONDS_MAX)),
            "numberofplugins" if count(0)? > 1 => {
                warnings.push("only the first plugin of VMSnapshotPluginHost.conf is run".into());
            }
            "pluginconfigpath0" if value.starts_with('/') && value.len() <= PATH_BYTES_MAX => {
                host.config_path = Some(value.into());
            }
            "pluginconfigpath0" => return Err("pluginConfigPath0 is not an absolute path".into()),
            _ => {}
        }
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = r#"{"preScriptLocation":"/a","postScriptLocation":"/b"}"#;

    fn parsed(text: &str) -> (Result<Config, Problem>, Vec<String>) {
        let mut warnings = Vec::new();
        (parse(text, &mut warnings), warnings)
    }

    #[test]
    fn what_holds_when_keys_are_absent() {
        let (config, warnings) = parsed(LEAST);
        let script = |path: &str| Script { location: path.into(), parameters: vec![], retries: 0 };
        let expected = Config {
            pre: script("/a"),
            post: script("/b"),
            timeout_seconds: 10,
            continue_on_failure: true,
            freeze: true,
            poll_seconds: 3,
        };
        assert_eq!(config.unwrap(), expected);
        assert!(warnings.is_empty());
    }

    #[test]
    fn azures_template_filled_in() {
        let (config, warnings) = parsed(
            "\u{feff}{\"pluginName\":\"ScriptRunner\",\"preScriptLocation\":\"/etc/azure/pre.sh\",\"postScriptLocation\":\"/etc/azure/post.sh\",
            \"preScriptParams\":[\"a b\",\"\"],\"postScriptParams\":[],\"preScriptNoOfRetries\":2,\"postScriptNoOfRetries\":1,
            \"timeoutInSeconds\":30,\"continueBackupOnFailure\":false,\"fsFreezeEnabled\":false,\"ScriptsExecutionPollTimeSeconds\":1}",
        );
        let config = config.unwrap();
        assert_eq!((config.pre.retries, config.post.retries, config.timeout_seconds), (2, 1, 30));
        assert_eq!(config.pre.parameters, ["a b", ""]);
        assert!(!config.continue_on_failure && !config.freeze && warnings.is_empty());
    }

    #[test]
    fn what_is_wrong_has_its_code() {
        for (text, code) in [
            ("", Code::ConfigUnreadable),
            ("[]", Code::ConfigUnreadable),
            (r#"{"preScriptLocation":"/a""#, Code::ConfigUnreadable),
            (r#"{"preScriptLocation":"","postScriptLocation":""}"#, Code::LocationMissing),
            (r#"{"preScriptLocation":"/a"}"#, Code::LocationMissing),
            (r#"{"preScriptLocation":"a","postScriptLocation":"/b"}"#, Code::ConfigUnreadable),
            (r#"{"preScriptLocation":7,"postScriptLocation":"/b"}"#, Code::ConfigUnreadable),
        ] {
            assert_eq!(parsed(text).0.unwrap_err().code, code, "{text}");
        }
        for extra in [
            r#""timeoutInSeconds":"soon""#,
            r#""timeoutInSeconds":-1"#,
            r#""fsFreezeEnabled":2"#,
            r#""preScriptParams":"x""#,
            r#""postScriptParams":[{}]"#,
        ] {
            let text = LEAST.replace('}', &format!(",{extra}}}"));
            assert_eq!(parsed(&text).0.unwrap_err().code, Code::ConfigUnreadable, "{text}");
        }
    }

    #[test]
    fn bounds_and_unknown_keys_are_told() {
        let text = LEAST.replace(
            '}',
            r#","timeoutInSeconds":99999,"ScriptsExecutionPollTimeSeconds":0,"preScriptNoOfRetries":1000,"Colour":1}"#,
        );
        let (config, warnings) = parsed(&text);
        let config = config.unwrap();
        assert_eq!((config.timeout_seconds, config.poll_seconds, config.pre.retries), (1800, 1, 100));
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        assert!(warnings[0].contains("Colour"));
    }

    #[test]
    fn the_host_file() {
        let mut warnings = Vec::new();
        let text = "# x\n[other]\ntimeoutInSeconds = 1\n[pre_post]\ntimeoutInSeconds = 1800\nnumberOfPlugins = 1\npluginName0 = ScriptRunner\npluginPath0 = ScriptRunner\npluginConfigPath0 = /etc/azure/VMSnapshotScriptPluginConfig.json\n";
        let host = parse_host(text, &mut warnings).unwrap();
        assert_eq!(host.timeout_seconds, Some(1800));
        assert_eq!(host.config_path.unwrap(), Path::new(CONFIG_PATH));
        assert!(warnings.is_empty());
        for wrong in
            ["x", "a=b", "[pre_post", "[pre_post]\ntimeoutInSeconds=x", "[pre_post]\npluginConfigPath0=x"]
        {
            assert!(parse_host(wrong, &mut warnings).is_err(), "{wrong}");
        }
    }
}
