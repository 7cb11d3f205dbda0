//! Where a vault is: a directory or a prefix of an S3 bucket.
//!
//! Parsing only reads the text. Credentials, region and endpoint come from the `AWS_*` environment variables
//! when the location is opened, and never appear in what is displayed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{ClientOptions, RetryConfig};

use super::limits::{S3_CONNECT_TIMEOUT, S3_READ_TIMEOUT, S3_REQUEST_TIMEOUT};
use super::name::check_prefix;
use super::reach::Reach;
use super::transport::{Connector, Dialect};

/// Where a vault's objects are.
///
/// ```
/// # use strongroom_store::objects::Location;
/// assert!(matches!(Location::parse("/srv/vault")?, Location::Directory(_)));
/// assert_eq!(Location::parse("s3://backups/hosts/a")?.to_string(), "s3://backups/hosts/a");
/// assert!(Location::parse("ftp://host/dir").is_err());
/// # Ok::<(), strongroom_store::objects::LocationError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A local directory, absolute.
    Directory(PathBuf),
    /// A bucket and the prefix of all names in it, without slashes at its ends; may be empty.
    S3 {
        /// Bucket name.
        bucket: String,
        /// Prefix, `""` or `"a/b"`.
        prefix: String,
    },
}

/// A location that can't be used, and why.
#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    /// The text is no location.
    #[error("{text:?} is no location: {why}; give a directory or s3://bucket/prefix")]
    Malformed {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// The text is no path on this host.
    #[error("{text:?} is no local path: {why}")]
    NotLocal {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// The environment doesn't say how to reach the bucket.
    #[error("{location} can't be reached: {why}")]
    Settings {
        /// Which location.
        location: String,
        /// What is missing or wrong, and how to set it.
        why: String,
    },
}

impl Location {
    /// Reads a directory path, `file:///path`, or `s3://bucket/prefix`. What has a colon before its first slash is one of the
    /// latter two or refused; `./a:b` is a path.
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        let malformed = |why: &str| LocationError::Malformed { text: text.to_owned(), why: why.to_owned() };
        if text.is_empty() {
            return Err(malformed("it is empty"));
        }
        if text.contains('\0') {
            return Err(malformed("it contains a zero byte"));
        }
        let Some((scheme, rest)) = text.split_once(':').filter(|(before, _)| !before.contains('/')) else {
            let path = std::path::absolute(Path::new(text)).map_err(|e| malformed(&e.to_string()))?;
            return Ok(Location::Directory(path));
        };
        let Some(rest) = rest.strip_prefix("//") else {
            return Err(malformed(&not_local(text, scheme, rest)));
        };
        match scheme {
            "file" if rest.starts_with('/') => Ok(Location::Directory(PathBuf::from(rest))),
            "file" => Err(malformed("a file:// location needs an absolute path, as in file:///srv/vault")),
            "s3" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                check_bucket(bucket).map_err(malformed)?;
                let prefix = check_prefix(prefix).map_err(|e| malformed(&e.to_string()))?;
                Ok(Location::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
            }
            other => Err(malformed(&format!("the scheme {other:?} is not supported"))),
        }
    }
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        Location::parse(text)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Directory(path) => write!(f, "{}", path.display()),
            Location::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Location::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// Why what has a colon in its first part is no path: other programs spell places on other hosts like that (`s3:bucket`,
/// `sftp:host:/dir`, `host:dir`), and a directory of that name here would look like a success.
fn not_local(text: &str, before: &str, after: &str) -> String {
    let ours = match before.to_ascii_lowercase().as_str() {
        "s3" => format!("a bucket is spelled s3://{}", after.trim_start_matches('/')),
        "file" => format!("a directory is spelled file:///{}", after.trim_start_matches('/')),
        _ => format!("what is before its first colon, {before:?}, is no scheme that is supported"),
    };
    format!("{ours}; a path on this host that has a colon is spelled ./{text}, or from / on")
}

/// Takes a path on this host as it is, and refuses what reads as a place elsewhere: see [`Location::parse`].
pub fn check_local(path: &Path) -> Result<(), LocationError> {
    let text = path.to_string_lossy();
    match text.split_once(':') {
        Some((before, after)) if !before.contains('/') => Err(LocationError::NotLocal {
            why: match after.starts_with("//") {
                true => format!(
                    "{before}:// names a place elsewhere, and this goes to a file or directory of this host"
                ),
                false => format!(
                    "it reads as a place elsewhere; a path on this host that has a colon is spelled ./{text}, or from / on"
                ),
            },
            text: text.into_owned(),
        }),
        _ => Ok(()),
    }
}

pub(super) fn check_bucket(bucket: &str) -> Result<(), &'static str> {
    if bucket.contains('@') {
        return Err(
            "credentials don't belong into a location, they come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        );
    }
    if !(3..=63).contains(&bucket.len()) {
        return Err("a bucket's name has 3 to 63 characters");
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    if !bucket.bytes().all(allowed) || !edge(bucket.as_bytes().first()) || !edge(bucket.as_bytes().last()) {
        return Err("a bucket's name is made of lower-case letters, digits, dots and hyphens");
    }
    Ok(())
}

/// An S3 client for `bucket`, set up from environment variables given as pairs.
///
/// Understands what `object_store` does: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`,
/// `AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`, container and web-identity credentials. The instance metadata
/// service is asked only if `AWS_METADATA_ENDPOINT` names it: elsewhere it would just hang.
pub(super) fn s3_client(
    location: &Location,
    bucket: &str,
    vars: impl IntoIterator<Item = (String, String)>,
    reach: &Reach,
) -> Result<AmazonS3, LocationError> {
    let settings = |why: String| LocationError::Settings { location: location.to_string(), why };
    let vars: Vec<(String, String)> = vars.into_iter().collect();
    let bundle = vars.iter().find(|(name, v)| name == "AWS_CA_BUNDLE" && !v.is_empty());
    // Variables read below may override these.
    let client = ClientOptions::new()
        .with_connect_timeout(S3_CONNECT_TIMEOUT)
        .with_read_timeout(S3_READ_TIMEOUT)
        .with_timeout(S3_REQUEST_TIMEOUT);
    use_ring_for_tls();
    let client = reach.trust(client, bundle.map(|(_, path)| Path::new(path))).map_err(settings)?;
    let (mut builder, told) = read_variables(AmazonS3Builder::new().with_client_options(client), vars);
    told.check().map_err(settings)?;
    let mut store = bucket.to_owned();
    if let Some(endpoint) = told.endpoint {
        store = format!("{endpoint}/{bucket}");
        builder = builder.with_endpoint(endpoint);
    }
    builder
        .with_http_connector(Connector { dialect: Dialect::S3, pace: reach.pace(&store) })
        // Not every store knows how to delete many objects with one request, and some want checksums for it that others refuse.
        .with_disable_bulk_delete(true)
        .with_bucket_name(bucket)
        // One place retries: the façade, which knows what an unclear outcome of a create means.
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
        .build()
        .map_err(|e| settings(e.to_string()))
}

/// What the environment says that is looked at here, before or instead of the builder.
#[derive(Default)]
struct Told {
    has_key: bool,
    has_secret: bool,
    has_other_source: bool,
    allow_http: bool,
    endpoint: Option<String>,
}

/// Hands variables to the builder, but for those that are looked at here.
fn read_variables(mut builder: AmazonS3Builder, vars: Vec<(String, String)>) -> (AmazonS3Builder, Told) {
    let mut told = Told::default();
    for (variable, value) in vars {
        if !variable.starts_with("AWS_") || value.is_empty() {
            continue;
        }
        match variable.as_str() {
            "AWS_ACCESS_KEY_ID" => told.has_key = true,
            "AWS_SECRET_ACCESS_KEY" => told.has_secret = true,
            "AWS_WEB_IDENTITY_TOKEN_FILE"
            | "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
            | "AWS_CONTAINER_CREDENTIALS_FULL_URI"
            | "AWS_METADATA_ENDPOINT"
            | "AWS_SKIP_SIGNATURE" => told.has_other_source = true,
            "AWS_ALLOW_HTTP" => {
                told.allow_http = matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on")
            }
            "AWS_ENDPOINT_URL_S3" | "AWS_ENDPOINT_URL" | "AWS_ENDPOINT" => {
                // The more specific variable wins, whatever order they come in.
                if told.endpoint.is_none() || variable == "AWS_ENDPOINT_URL_S3" {
                    told.endpoint = Some(value);
                }
                continue;
            }
            // The bucket is the location's to say, and how objects are deleted is ours.
            "AWS_BUCKET" | "AWS_BUCKET_NAME" | "AWS_DISABLE_BULK_DELETE" => continue,
            _ => {}
        }
        // Variables that object_store doesn't know are other programs' business.
        if let Ok(key) = variable.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    (builder, told)
}

impl Told {
    /// Whether there are credentials, and the endpoint may be spoken to; else why not, and what to do.
    fn check(&self) -> Result<(), String> {
        if self.has_key != self.has_secret {
            let (missing, there) = match self.has_key {
                true => ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
                false => ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
            };
            return Err(format!("{there} is set but {missing} is not; set both"));
        }
        if !self.has_key && !self.has_other_source {
            return Err(
                "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (profiles in ~/.aws are not read; \
                 for a machine's own role set AWS_METADATA_ENDPOINT=http://169.254.169.254)"
                    .to_owned(),
            );
        }
        let Some(endpoint) = &self.endpoint else { return Ok(()) };
        let scheme = endpoint.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            Some("https") => Ok(()),
            Some("http") if self.allow_http => Ok(()),
            Some("http") => Err(format!(
                "AWS_ENDPOINT_URL is {endpoint}, which is not encrypted; use https or set AWS_ALLOW_HTTP=true"
            )),
            _ => Err(format!("AWS_ENDPOINT_URL is {endpoint:?}; it must begin with https:// or http://")),
        }
    }
}

/// reqwest takes the process's default TLS provider. Somebody may have installed one already: fine.
pub(super) fn use_ring_for_tls() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_buckets_are_told_apart() {
        assert_eq!(Location::parse("/a/b").unwrap(), Location::Directory("/a/b".into()));
        assert_eq!(Location::parse("file:///a/b").unwrap(), Location::Directory("/a/b".into()));
        let relative = Location::parse("some/dir").unwrap();
        assert_eq!(relative, Location::Directory(std::env::current_dir().unwrap().join("some/dir")));
        let s3 = Location::S3 { bucket: "my-bucket".into(), prefix: "x/y".into() };
        assert_eq!(Location::parse("s3://my-bucket/x/y/").unwrap(), s3);
        assert_eq!(Location::parse("s3://my-bucket").unwrap().to_string(), "s3://my-bucket");
    }

    #[test]
    fn paths_with_colons_are_told_from_schemes_of_others() {
        let here = std::env::current_dir().unwrap();
        for (text, path) in [
            ("./a:b", here.join("a:b")),
            ("../a:b", here.join("../a:b")),
            ("a/b:c", here.join("a/b:c")),
            ("/srv/a:b", "/srv/a:b".into()),
            ("/srv/s3://x", "/srv/s3:/x".into()),
            ("file:///srv/a:b", "/srv/a:b".into()),
        ] {
            let parsed = Location::parse(text).unwrap();
            assert!(matches!(&parsed, Location::Directory(found) if *found == path), "{text:?}: {parsed:?}");
        }
        for path in ["./a:b", "/a:b", "a/b:c", "a"] {
            check_local(Path::new(path)).unwrap();
        }
        for path in ["s3://bucket/x", "s3:x.raw", "sftp:host:/x", "host:x", "a:b/c"] {
            let message = check_local(Path::new(path)).unwrap_err().to_string();
            assert!(message.contains(path) && message.contains("this host"), "{message}");
        }
    }

    #[test]
    fn what_is_no_location_says_why() {
        for (text, why) in [
            ("s3:bucket/x", "spelled s3://bucket/x"),
            ("s3:/bucket/y", "spelled s3://bucket/y"),
            ("S3:bucket", "spelled s3://bucket"),
            ("b2:bucket", "\"b2\", is no scheme"),
            ("sftp:host:/x", "spelled ./sftp:host:/x"),
            ("sftp:user@host:x", "\"sftp\", is no scheme"),
            ("user@host:/x", "\"user@host\", is no scheme"),
            ("rclone:r:x", "s3://bucket/prefix"),
            ("file:/srv/vault", "spelled file:///srv/vault"),
            (":x", "spelled ./:x"),
            ("", "empty"),
            ("gs://bucket/x", "\"gs\" is not supported"),
            ("https://host/x", "\"https\" is not supported"),
            ("s3://", "3 to 63"),
            ("s3://Upper/x", "lower-case"),
            ("s3://key:secret@bucket/x", "credentials don't belong"),
            ("s3://bucket/../x", "starts with a dot"),
            ("file://relative", "absolute path"),
        ] {
            let message = Location::parse(text).unwrap_err().to_string();
            assert!(message.contains(why), "{text:?}: {message}");
        }
    }

    fn client(vars: &[(&str, &str)]) -> Result<AmazonS3, LocationError> {
        let location = Location::parse("s3://bucket/p").unwrap();
        s3_client(
            &location,
            "bucket",
            vars.iter().map(|(k, v)| ((*k).into(), (*v).into())),
            &Reach::default(),
        )
    }

    #[test]
    fn missing_settings_are_named_and_secrets_are_not() {
        for (vars, why) in [
            (&[][..], "set AWS_ACCESS_KEY_ID"),
            (&[("AWS_ACCESS_KEY_ID", "k")][..], "AWS_SECRET_ACCESS_KEY is not"),
            (&[("AWS_SECRET_ACCESS_KEY", "hush")][..], "AWS_ACCESS_KEY_ID is not"),
            (
                &[
                    ("AWS_ACCESS_KEY_ID", "k"),
                    ("AWS_SECRET_ACCESS_KEY", "hush"),
                    ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
                ][..],
                "AWS_ALLOW_HTTP=true",
            ),
            (
                &[
                    ("AWS_ACCESS_KEY_ID", "k"),
                    ("AWS_SECRET_ACCESS_KEY", "hush"),
                    ("AWS_ENDPOINT_URL", "127.0.0.1:1"),
                ][..],
                "must begin with",
            ),
        ] {
            let message = client(vars).unwrap_err().to_string();
            assert!(message.contains(why), "{message}");
            assert!(!message.contains("hush"), "{message}");
        }
        let good = [
            ("AWS_ACCESS_KEY_ID", "k"),
            ("AWS_SECRET_ACCESS_KEY", "hush"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_PAGER", ""),
        ];
        client(&good).unwrap();
    }
}
