//! What a store answered in place of what it was asked for, and what that means.

use super::kind::{Kind, Op};
use jiff::{SignedDuration, Timestamp};
use std::fmt;
use std::time::Duration;

/// Codes that mean "later", whatever status they come with: some stores say 403 or 400.
const PASSING: &[&str] = &[
    "bandwidthlimitexceeded",
    "baddigest",
    "busy",
    "conditionalrequestconflict",
    "incompletebody",
    "internalerror",
    "internalfailure",
    "operationaborted",
    "operationtimedout",
    "priorrequestnotcomplete",
    "provisionedthroughputexceededexception",
    "ratelimitexceeded",
    "requestlimitexceeded",
    "requestthrottled",
    "requestthrottledexception",
    "requesttimeout",
    "requesttimeoutexception",
    "serverbusy",
    "servicefailure",
    "serviceunavailable",
    "slowdown",
    "slowdownread",
    "slowdownwrite",
    "throttledexception",
    "throttling",
    "throttlingexception",
    "toomanyrequests",
    "toomanyrequestsexception",
    "xamzcontentsha256mismatch",
];

/// Codes that mean that the credentials are not, or no longer, good; they come with 400, too.
const CREDENTIALS: &[&str] = &[
    "expiredtoken",
    "expiredtokenexception",
    "invalidtoken",
    "requesttimetooskewed",
    "tokenrefreshrequired",
];

/// Stores allow 15 minutes, some less.
const SKEW_WORTH_TELLING: SignedDuration = SignedDuration::from_mins(5);
const WORDS_MAX: usize = 300;

/// A request that a store did not carry out.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Of the request.
    pub method: String,
    /// What whoever asks has to be permitted, by the store's own name for it; empty if that is not known.
    pub permission: &'static str,
    /// HTTP's.
    pub status: u16,
    /// The store's own, as in `SlowDown`; may be empty.
    pub code: String,
    /// The store's own words; may be empty.
    pub message: String,
    /// What the store's clock said, and this host's.
    pub times: Option<(Timestamp, Timestamp)>,
    /// When to ask again, as the store would have it.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// Reads an answer. `told`: code and message that came in headers, of answers without a body.
    pub(super) fn read(
        (method, permission): (&str, &'static str),
        status: u16,
        told: (Option<&str>, Option<&str>),
        date: Option<&str>,
        body: &[u8],
    ) -> Self {
        let body = String::from_utf8_lossy(body);
        let (code, message) = words_of(&body);
        let code = code.or_else(|| told.0.map(str::to_owned)).unwrap_or_default();
        let message = message.or_else(|| told.1.map(str::to_owned)).unwrap_or_default();
        let there = element(&body, "ServerTime").and_then(|t| t.parse::<Timestamp>().ok());
        let there = there.or_else(|| {
            let parsed = jiff::fmt::rfc2822::parse(date?).ok()?;
            Some(parsed.timestamp())
        });
        Self {
            method: method.to_owned(),
            permission,
            status,
            code: plain(&code),
            message: plain(&message),
            times: there.map(|there| (there, Timestamp::now())),
            retry_after: None,
        }
    }

    /// The same with what a `Retry-After` header says: seconds, or a date, which is told by the store's clock if it is known.
    pub(super) fn with_retry_after(mut self, header: Option<&str>) -> Self {
        self.retry_after = header.and_then(|header| {
            if let Ok(seconds) = header.trim().parse::<u64>() {
                return Some(Duration::from_secs(seconds));
            }
            let at = jiff::fmt::rfc2822::parse(header).ok()?.timestamp();
            let now = self.times.map_or_else(Timestamp::now, |(there, _)| there);
            Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
        });
        self
    }

    /// The store would carry it out, and has too much to do.
    pub(super) fn is_throttled(&self) -> bool {
        let code = self.code_letters();
        let says = ["slowdown", "throttl", "toomanyrequests", "limitexceeded", "serverbusy"];
        self.kind() == Kind::Transient
            && (matches!(self.status, 429 | 503)
                || self.retry_after.is_some()
                || says.iter().any(|part| code.contains(part)))
    }

    /// The code without signs, in small letters: stores write it in different ways.
    fn code_letters(&self) -> String {
        self.code.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
    }

    pub(super) fn kind(&self) -> Kind {
        let code = self.code_letters();
        let is = |codes: &[&str]| codes.contains(&code.as_str());
        let message = self.message.to_ascii_lowercase();
        match self.status {
            507 => Kind::NoSpace,
            _ if code.contains("storagefull") || code.contains("quotaexceeded") => Kind::NoSpace,
            403 if message.contains("storage cap exceeded") => Kind::NoSpace,
            _ if code == "entitytoolarge" => Kind::TooLarge,
            _ if is(PASSING) => Kind::Transient,
            _ if is(CREDENTIALS) => Kind::Denied,
            // No service of this name is there, or it is elsewhere.
            300..=399 => Kind::Invalid,
            _ if is(&["authorizationheadermalformed", "permanentredirect", "temporaryredirect"]) => {
                Kind::Invalid
            }
            501 | 505 => Kind::Other,
            408 | 425 | 429 | 498 | 500..=599 => Kind::Transient,
            401 | 403 => Kind::Denied,
            404 => Kind::NotFound,
            409 | 412 => Kind::AlreadyExists,
            416 => Kind::Short,
            _ => Kind::Other,
        }
    }

    /// The store does not know what it was asked for.
    pub(super) fn is_not_implemented(&self) -> bool {
        self.status == 501 || self.code_letters() == "notimplemented"
    }

    /// The store's time and ours, where they differ by more than stores allow and that may be why it refused.
    fn skew(&self) -> Option<(Timestamp, Timestamp)> {
        let (there, here) = self.times?;
        let is_told = self.code_letters() == "requesttimetooskewed";
        let is_far = here.duration_since(there).abs() > SKEW_WORTH_TELLING;
        (is_told || is_far && matches!(self.status, 400 | 401 | 403)).then_some((there, here))
    }

    /// What to do; empty where the kind's own advice is as good.
    pub(super) fn advice(&self, op: Op) -> String {
        if let Some((there, here)) = self.skew() {
            return format!(
                "the clocks differ: the store's says {there:.0}, this host's {here:.0}; set this host's clock right (NTP), then \
                 run again"
            );
        }
        let message = self.message.to_ascii_lowercase();
        let told = match self.code_letters().as_str() {
            "requesttimetooskewed" => "set this host's clock right (NTP), then run again",
            "invalidaccesskeyid" | "invalidclienttokenid" => {
                "the store does not know the access key: check AWS_ACCESS_KEY_ID, and that AWS_ENDPOINT_URL is the store it is for"
            }
            "signaturedoesnotmatch" => "check AWS_SECRET_ACCESS_KEY and AWS_REGION",
            "authorizationheadermalformed" | "permanentredirect" | "temporaryredirect" => {
                "check AWS_REGION and AWS_ENDPOINT_URL: the bucket is in another region, or at another address"
            }
            "expiredtoken" | "expiredtokenexception" | "invalidtoken" | "tokenrefreshrequired" => {
                "get new credentials: AWS_SESSION_TOKEN and the two keys that go with it"
            }
            "nosuchbucket" => "make the bucket, or correct its name",
            "invalidobjectstate" => {
                "it was moved to an archive: fetch it back from there, and take the rule off the bucket that moves objects"
            }
            _ if message.contains("object lock") || message.contains("content-md5") => {
                "the bucket locks objects, for which it wants checksums: set AWS_CHECKSUM_ALGORITHM=SHA256"
            }
            _ if message.contains("checksum") => {
                "unset AWS_CHECKSUM_ALGORITHM: without it no checksums are sent"
            }
            _ if (300..=399).contains(&self.status) => "check AWS_REGION and AWS_ENDPOINT_URL",
            _ if self.is_not_implemented() => {
                "the store does not know this kind of request; docs/object-stores.md says what a store must have"
            }
            _ if self.kind() == Kind::Denied && !self.permission.is_empty() => {
                let on = match op {
                    Op::Open | Op::List => "on the bucket",
                    _ => "on this object",
                };
                return format!(
                    "the credentials in use need the permission {} {on}: check the policies of the user and of the bucket",
                    self.permission
                );
            }
            _ => "",
        };
        told.to_owned()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = if self.code.is_empty() { "" } else { &format!(" {}", self.code) };
        write!(f, "the store answered {}{code} to {}", self.status, self.method)?;
        match self.message.as_str() {
            "" => Ok(()),
            // Advice follows.
            message => write!(f, ": {}", message.trim_end_matches('.')),
        }
    }
}

impl std::error::Error for Refusal {}

/// One line of moderate length, whatever the server sent.
fn plain(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS_MAX).collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Code and message of an error, which is XML, or JSON with some.
fn words_of(body: &str) -> (Option<String>, Option<String>) {
    if let Some(code) = element(body, "Code") {
        return (Some(code), element(body, "Message"));
    }
    let Ok(json) = serde_json::from_str::<serde_json::Value>(body) else { return (None, None) };
    let json = json.get("error").filter(|inner| inner.is_object()).unwrap_or(&json);
    let word = |names: [&str; 2]| names.iter().find_map(|n| json.get(n)?.as_str()).map(str::to_owned);
    (word(["code", "Code"]), word(["message", "Message"]))
}

/// The text of the first element of this name.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
    Some(text.replace("&#39;", "'").replace("&#34;", "\"").replace("&amp;", "&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str, date: Option<&str>) -> Refusal {
        Refusal::read(("PUT", "s3:PutObject"), status, (None, None), date, body.as_bytes())
    }

    fn error(code: &str, message: &str) -> String {
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>")
    }

    #[test]
    fn a_code_that_means_later_passes_whatever_the_status() {
        for code in [
            "SlowDown",
            "RequestLimitExceeded",
            "Throttling",
            "TooManyRequests",
            "slow_down",
            "RequestTimeout",
        ] {
            for status in [400, 403, 429, 503] {
                assert_eq!(answer(status, &error(code, ""), None).kind(), Kind::Transient, "{status} {code}");
            }
        }
        let json = r#"{"code": "too_many_requests", "message": "later", "status": 403}"#;
        assert_eq!(answer(403, json, None).kind(), Kind::Transient);
        for code in ["AccessDenied", "SignatureDoesNotMatch", "AllAccessDisabled", "SlowDownNot", ""] {
            assert_eq!(answer(403, &error(code, "SlowDown"), None).kind(), Kind::Denied, "{code}");
        }
    }

    #[test]
    fn it_is_told_in_the_stores_words_and_what_is_needed() {
        let refusal = answer(403, &error("AccessDenied", "User &quot;x&quot; may\nnot."), None);
        assert_eq!(refusal.to_string(), "the store answered 403 AccessDenied to PUT: User \"x\" may not");
        assert!(refusal.advice(Op::Put).contains("s3:PutObject on this object"));
        assert!(answer(403, "", None).to_string().ends_with("403 to PUT"));
        let wordy = answer(403, &error("AccessDenied", &"long ".repeat(1000)), None);
        assert!(wordy.to_string().len() < 400);
        let lock = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters";
        assert!(
            answer(400, &error("InvalidRequest", lock), None)
                .advice(Op::Put)
                .contains("AWS_CHECKSUM_ALGORITHM=SHA256")
        );
        // What came in headers counts where there is no body.
        let told = (Some("AccessDenied"), Some("no"));
        let head = Refusal::read(("HEAD", "s3:GetObject"), 403, told, None, b"");
        assert_eq!(head.to_string(), "the store answered 403 AccessDenied to HEAD: no");
    }

    #[test]
    fn a_skewed_clock_is_called_that_with_both_times() {
        let told = "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference is too large.</Message>\
                    <ServerTime>2023-11-27T10:50:34Z</ServerTime></Error>";
        let refusal = answer(403, told, None);
        assert_eq!(refusal.kind(), Kind::Denied);
        assert!(refusal.advice(Op::Get).contains("the store's says 2023-11-27T10:50:34Z, this host's 20"));
        let date = Some("Mon, 27 Nov 2023 10:50:34 GMT");
        let denied = answer(403, &error("AccessDenied", "no"), date).advice(Op::Get);
        assert!(denied.contains("clocks differ") && denied.contains("2023-11-27T10:50:34Z"), "{denied}");
        // A clock that is right, and an answer that is no refusal, say nothing of it.
        let now = jiff::fmt::rfc2822::to_string(&Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC)).unwrap();
        assert!(!answer(403, &error("AccessDenied", "no"), Some(&now)).advice(Op::Get).contains("clock"));
        assert!(!answer(404, &error("NoSuchKey", "no"), date).advice(Op::Get).contains("clock"));
    }
}
