//! What happens to requests before the test server sees them: they are noted, refused as the test says, or left without an answer.

use futures::StreamExt as _;
use hyper::body::Incoming;
use parking_lot::Mutex;
use s3s::service::S3Service;
use s3s::{Body, HttpError, HttpResponse};

/// A request, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// HTTP's.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names of headers, in small letters.
    pub headers: Vec<String>,
}

impl Asked {
    /// Whether many objects are to be deleted at once.
    pub fn deletes_many(&self) -> bool {
        self.method == "POST" && (self.target.ends_with("?delete") || self.target.contains("?delete&"))
    }

    /// Whether checksums of S3's newer kind came with it.
    pub fn has_checksums(&self) -> bool {
        self.headers.iter().any(|h| h.starts_with("x-amz-checksum") || h == "x-amz-sdk-checksum-algorithm")
    }
}

/// An answer in place of the server's.
#[derive(Clone, Copy, Debug)]
pub struct Refuse {
    /// HTTP's.
    pub status: u16,
    /// S3's; empty: there is no body.
    pub code: &'static str,
    /// In words.
    pub message: &'static str,
    /// The header `Date`; default: the present.
    pub date: Option<&'static str>,
    /// The header `Retry-After`.
    pub retry_after: Option<&'static str>,
}

impl Refuse {
    /// With words of no meaning.
    pub const fn with(status: u16, code: &'static str) -> Self {
        Refuse { status, code, message: "So it is", date: None, retry_after: None }
    }
}

type Rule = Box<dyn Fn(&Asked) -> Option<Refuse> + Send + Sync>;
type Choice = Box<dyn Fn(&Asked) -> bool + Send + Sync>;

#[derive(Default)]
pub(super) struct Front {
    rule: Mutex<Option<Rule>>,
    asked: Mutex<Vec<Asked>>,
    hangs: Mutex<Option<Choice>>,
}

impl Front {
    pub(super) fn refuse(&self, rule: Option<Rule>) {
        *self.rule.lock() = rule;
    }

    pub(super) fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock())
    }

    pub(super) fn hang(&self, on: Option<Choice>) {
        *self.hangs.lock() = on;
    }

    pub(super) async fn answer(
        &self,
        service: &S3Service,
        request: hyper::Request<Incoming>,
    ) -> Result<HttpResponse, HttpError> {
        let asked = Asked {
            method: request.method().to_string(),
            target: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
            headers: request.headers().keys().map(ToString::to_string).collect(),
        };
        self.asked.lock().push(asked.clone());
        let hangs = self.hangs.lock().as_ref().is_some_and(|on| on(&asked));
        if hangs {
            std::future::pending::<()>().await;
        }
        let mut request = request.map(Body::from);
        let refusal = self.rule.lock().as_ref().and_then(|rule| rule(&asked));
        let Some(refusal) = refusal else { return service.call(request).await };
        // A client that is answered before it has sent all may see a connection that breaks off.
        while let Some(Ok(_)) = request.body_mut().next().await {}
        Ok(refusal.response())
    }
}

impl Refuse {
    fn response(self) -> HttpResponse {
        let body = match self.code {
            "" => Body::empty(),
            code => Body::from(format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{}</Message></Error>",
                self.message
            )),
        };
        let mut response = HttpResponse::new(body);
        *response.status_mut() = self.status.try_into().expect("a status");
        if let Some(after) = self.retry_after {
            response.headers_mut().insert("retry-after", after.try_into().expect("a header"));
        }
        if let Some(date) = self.date {
            response.headers_mut().insert("date", date.try_into().expect("a header"));
        }
        response
    }
}
