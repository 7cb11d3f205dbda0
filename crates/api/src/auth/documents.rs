//! What clients read before they sign in: where everything is, in the words of Azure Stack's metadata and of OpenID.

use serde_json::{Value, json};
use uuid::Uuid;

/// Whom tokens are for: this API, whatever address it is reached at. A name, never looked up.
pub const AUDIENCE: &str = "https://management.strongroom.local/";

/// Audiences that clients ask tokens for and mean us, beside [`AUDIENCE`] and the server's own address: Azure's public
/// Resource Manager, which SDKs fall back to.
const ALSO_US: [&str; 2] = ["https://management.azure.com", "https://management.core.windows.net"];

/// Whether a scope (`…/.default`) or resource means this API.
pub(super) fn means_us(scope: &str, base_url: &str) -> bool {
    let resource = scope.strip_suffix(".default").unwrap_or(scope).trim_end_matches('/');
    let ours = [AUDIENCE.trim_end_matches('/'), base_url].into_iter().chain(ALSO_US);
    ours.into_iter().any(|ours| ours.eq_ignore_ascii_case(resource))
}

/// `GET /metadata/endpoints`: one flat object. `az cloud register` reads each of these.
pub(super) fn endpoints(base: &str, tenant: Uuid) -> Value {
    json!({
        "name": "Strongroom",
        "resourceManager": base,
        "portal": format!("{base}/portal"),
        "gallery": format!("{base}/gallery"),
        "graphAudience": format!("{base}/graph"),
        "graph": format!("{base}/graph"),
        "microsoftGraphResourceId": format!("{base}/graph"),
        "authentication": {
            "loginEndpoint": format!("{base}/adfs"),
            "audiences": [AUDIENCE],
            "tenant": tenant,
            "identityProvider": "ADFS",
        },
        "suffixes": { "keyVaultDns": ".vault.strongroom.local", "storage": "strongroom.local" },
    })
}

/// Who issues id tokens: what the discovery document says, at the address that was asked.
pub(super) fn issuer(base: &str) -> String {
    format!("{base}/adfs")
}

/// `…/.well-known/openid-configuration`.
///
/// `access_issuer`: what access tokens name, which is no address, so that they stay good when the server's changes.
pub(super) fn openid_configuration(base: &str, access_issuer: &str) -> Value {
    let adfs = issuer(base);
    json!({
        "issuer": adfs,
        "access_token_issuer": access_issuer,
        "authorization_endpoint": format!("{adfs}/oauth2/authorize"),
        "token_endpoint": format!("{adfs}/oauth2/token"),
        "device_authorization_endpoint": format!("{adfs}/oauth2/devicecode"),
        "jwks_uri": format!("{adfs}/discovery/keys"),
        "response_types_supported": ["token", "id_token"],
        "grant_types_supported": ["client_credentials", "password", "refresh_token"],
        "token_endpoint_auth_methods_supported": ["client_secret_post"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "scopes_supported": ["openid", "profile", "offline_access"],
        "claims_supported": ["iss", "aud", "sub", "oid", "tid", "upn", "unique_name", "exp", "nbf", "iat"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_that_mean_us() {
        let base = "https://box:8443";
        for good in [
            "https://management.strongroom.local//.default",
            "https://management.strongroom.local/.default",
            "https://management.strongroom.local/",
            "https://box:8443/.default",
            "https://box:8443",
            "https://management.azure.com/.default",
        ] {
            assert!(means_us(good, base), "{good}");
        }
        for bad in
            ["", ".default", "https://box:8443/graph/.default", "https://other/.default", "https://box"]
        {
            assert!(!means_us(bad, base), "{bad}");
        }
    }
}
