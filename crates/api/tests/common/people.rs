//! Accounts and keys in memory, an application that people sign in to, and a clock that tests turn.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use http::{Method, StatusCode};
use jiff::Timestamp;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use strongroom_api::auth::{
    self, Account, AccountKind, AuditEvent, Directory, HasSignIn, KeyStore, SignIn, SignInConfig, StoredKey,
    Unavailable, hash_secret,
};
use strongroom_api::{Api, ArmError, Client, Params, Request, Response, Route};
use strongroom_domain::access::{Assignment, Role, Scope};
use uuid::Uuid;

pub const TENANT: Uuid = Uuid::from_u128(0x22222222_2222_4222_8222_222222222222);
pub const APP_ID: Uuid = Uuid::from_u128(0xaaaa);
pub const START: i64 = 1_790_000_000;
/// What `az` names itself.
pub const AZ: &str = "04b07795-8ddb-461a-bbee-02f9e1bf7b46";

#[derive(Default)]
pub struct Memory {
    pub accounts: Mutex<Vec<(Account, Vec<Assignment>)>>,
    pub keys: Mutex<Vec<StoredKey>>,
    pub events: Mutex<Vec<AuditEvent>>,
    pub broken: Mutex<bool>,
}

impl Memory {
    fn works(&self) -> Result<(), Unavailable> {
        if *self.broken.lock().unwrap() { Err(Unavailable("the test broke it".into())) } else { Ok(()) }
    }

    pub fn change(&self, name: &str, change: impl Fn(&mut Account)) {
        let mut accounts = self.accounts.lock().unwrap();
        change(&mut accounts.iter_mut().find(|(a, _)| a.name == name).unwrap().0);
    }
}

impl Directory for Memory {
    fn by_name(&self, kind: AccountKind, name: &str) -> Result<Option<Account>, Unavailable> {
        self.works()?;
        let is = |a: &Account| {
            a.kind == kind
                && (a.name.eq_ignore_ascii_case(name)
                    || (kind == AccountKind::Application && a.app_id.to_string() == name))
        };
        Ok(self.accounts.lock().unwrap().iter().find(|(a, _)| is(a)).map(|(a, _)| a.clone()))
    }

    fn by_object_id(&self, id: Uuid) -> Result<Option<Account>, Unavailable> {
        self.works()?;
        Ok(self.accounts.lock().unwrap().iter().find(|(a, _)| a.object_id == id).map(|(a, _)| a.clone()))
    }

    fn assignments(&self, id: Uuid) -> Result<Vec<Assignment>, Unavailable> {
        self.works()?;
        Ok(self
            .accounts
            .lock()
            .unwrap()
            .iter()
            .find(|(a, _)| a.object_id == id)
            .map(|(_, r)| r.clone())
            .unwrap_or_default())
    }

    fn record(&self, event: &AuditEvent) -> Result<(), Unavailable> {
        self.events.lock().unwrap().push(event.clone());
        Ok(())
    }
}

impl KeyStore for Memory {
    fn load(&self) -> Result<Vec<StoredKey>, Unavailable> {
        self.works()?;
        Ok(self.keys.lock().unwrap().clone())
    }

    fn add(&self, key: &StoredKey) -> Result<(), Unavailable> {
        self.keys.lock().unwrap().push(key.clone());
        Ok(())
    }

    fn remove(&self, id: &str) -> Result<(), Unavailable> {
        self.keys.lock().unwrap().retain(|k| k.id != id);
        Ok(())
    }
}

pub struct Office {
    pub sign_in: Arc<SignIn>,
}

impl HasSignIn for Office {
    fn sign_in(&self) -> &SignIn {
        &self.sign_in
    }
}

fn who(_: &Office, request: &Request, _: &Params) -> Result<Response, ArmError> {
    let caller = request.caller();
    Response::ok(json!({ "name": caller.name, "objectId": caller.object_id, "kind": caller.kind }))
}

pub struct World {
    pub api: Api<Office>,
    pub memory: Arc<Memory>,
    pub seconds: Arc<AtomicI64>,
}

/// One hash for all tests: each takes its time.
pub fn hash() -> String {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| hash_secret("right horse").unwrap()).clone()
}

pub fn account(kind: AccountKind, name: &str, number: u128) -> Account {
    let (object_id, app_id) = (Uuid::from_u128(number), Uuid::from_u128(number + 0xaaa9));
    Account { object_id, app_id, kind, name: name.into(), secret_hash: hash(), disabled: false }
}

impl World {
    pub fn new() -> Self {
        Self::with([])
    }

    pub fn with(more: impl IntoIterator<Item = Route<Office>>) -> Self {
        let memory = Arc::new(Memory::default());
        let on = |role, scope: &str| vec![Assignment { role, scope: Scope::new(scope) }];
        memory.accounts.lock().unwrap().extend([
            (account(AccountKind::Application, "robot", 1), on(Role::Owner, "/")),
            (
                account(AccountKind::User, "anna@example.org", 2),
                on(Role::BackupReader, "/subscriptions/s/resourceGroups/g"),
            ),
        ]);
        let config = SignInConfig { tenant: TENANT, administrators: vec![0, 4242] };
        let sign_in = Arc::new(SignIn::new(config, memory.clone(), memory.clone()).unwrap());
        let seconds = Arc::new(AtomicI64::new(START));
        let clock = seconds.clone();
        let vault = "/subscriptions/{s}/resourceGroups/{g}/providers/Microsoft.RecoveryServices/vaults/{v}";
        let api = Api::builder(Arc::new(Office { sign_in: sign_in.clone() }), sign_in)
            .routes(auth::routes())
            .routes(more)
            .routes([
                Route::get("/who", "Who", who).any_api_version_or_none(),
                Route::get(vault, "Vaults_Get", who).action("Microsoft.RecoveryServices/vaults/read"),
                Route::delete(vault, "Vaults_Delete", who).action("Microsoft.RecoveryServices/vaults/delete"),
            ])
            .clock(Arc::new(move || Timestamp::from_second(clock.load(Ordering::SeqCst)).unwrap()))
            .build()
            .unwrap();
        Self { api, memory, seconds }
    }

    pub fn pass(&self, seconds: i64) {
        self.seconds.fetch_add(seconds, Ordering::SeqCst);
    }

    pub fn now(&self) -> i64 {
        self.seconds.load(Ordering::SeqCst)
    }

    pub fn get(&self, target: &str, token: Option<&str>) -> Response {
        self.call(Method::GET, target, token)
    }

    pub fn call(&self, method: Method, target: &str, token: Option<&str>) -> Response {
        let mut request =
            Request::new(method, target, Client::Address(IpAddr::from([192, 0, 2, 1]))).unwrap();
        request.base_url = "https://box:8443".into();
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.set_headers(http::HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]));
        }
        self.api.dispatch(request)
    }

    pub fn post_form(&self, path: &str, form: &str, from: [u8; 4]) -> (StatusCode, Value) {
        let mut request = Request::new(Method::POST, path, Client::Address(IpAddr::from(from))).unwrap();
        request.base_url = "https://box:8443".into();
        request.body = form.to_owned().into();
        let kind = "application/x-www-form-urlencoded; charset=utf-8".parse().unwrap();
        request.set_headers(http::HeaderMap::from_iter([(http::header::CONTENT_TYPE, kind)]));
        let response = self.api.dispatch(request);
        assert_eq!(response.headers["cache-control"], "no-store");
        (response.status, response.json_body().unwrap())
    }

    pub fn token(&self, form: &str) -> (StatusCode, Value) {
        self.post_form("/adfs/oauth2/token", form, [192, 0, 2, 1])
    }

    /// As `az login --service-principal` does it.
    pub fn robot(&self) -> String {
        let scope = "https%3A%2F%2Fmanagement.strongroom.local%2F%2F.default";
        let form = format!(
            "client_id={APP_ID}&grant_type=client_credentials&client_info=1&client_secret=right+horse&claims=%7B%7D&scope={scope}"
        );
        let (status, body) = self.token(&form);
        assert_eq!(status, 200, "{body}");
        body["access_token"].as_str().unwrap().to_owned()
    }

    /// As `az login -u -p` does it.
    pub fn anna(&self) -> Value {
        let form = format!(
            "client_id={AZ}&grant_type=password&username=Anna%40Example.org&password=right+horse&scope=https%3A%2F%2Fmanagement.strongroom.local%2F%2F.default+openid+profile+offline_access&client_info=1"
        );
        let (status, body) = self.token(&form);
        assert_eq!(status, 200, "{body}");
        body
    }

    /// What a stored key signs, whatever it is.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        sign_with(&self.memory.keys.lock().unwrap()[0].private_key_pem, header, claims)
    }
}

pub fn sign_with(pem: &str, header: &Value, claims: &Value) -> String {
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
    let signed = unsigned(header, claims);
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &ring::rand::SystemRandom::new(), signed.as_bytes(), &mut signature)
        .unwrap();
    format!("{signed}.{}", BASE64.encode(signature))
}

pub fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()))
}

/// A token's header or claims, unchecked.
pub fn part(token: &str, at: usize) -> Value {
    serde_json::from_slice(&BASE64.decode(token.split('.').nth(at).unwrap()).unwrap()).unwrap()
}
