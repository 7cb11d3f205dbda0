//! What a path names, found; or the refusal that Azure has for it.

use super::app::App;
use crate::{ArmError, Params};
use http::StatusCode;
use strongroom_catalog::{Item, Vault};

/// There is one subscription.
pub(crate) fn check_subscription(app: &App, params: &Params) -> Result<(), ArmError> {
    let Some(given) = params.get("subscription") else { return Ok(()) };
    if given.eq_ignore_ascii_case(&app.service.subscription().to_string()) {
        return Ok(());
    }
    Err(ArmError::new(
        StatusCode::NOT_FOUND,
        "SubscriptionNotFound",
        format!("The subscription '{}' could not be found.", crate::error::shorten(given)),
    ))
}

pub(crate) fn vault_of(app: &App, params: &Params) -> Result<Vault, ArmError> {
    check_subscription(app, params)?;
    Ok(strongroom_service::vaults::get(&app.service, &params["group"], &params["vault"])?)
}

/// The vault and the item that a path names. Container and fabric must be the item's own.
pub(crate) fn item_of(app: &App, params: &Params) -> Result<(Vault, Item), ArmError> {
    let vault = vault_of(app, params)?;
    let item = strongroom_service::items::get(&app.service, &vault, &params["item"])?;
    check_container(params, &item.container())?;
    Ok((vault, item))
}

/// Whether the path's fabric and container are those of what it names.
pub(crate) fn check_container(params: &Params, container: &str) -> Result<(), ArmError> {
    check_fabric(params)?;
    let given = &params["container"];
    let bare = |name: &str| {
        let name = name.to_lowercase();
        name.strip_prefix("iaasvmcontainer;").map(str::to_owned).unwrap_or(name)
    };
    if bare(given) == bare(container) {
        return Ok(());
    }
    Err(ArmError::new(
        StatusCode::NOT_FOUND,
        "BMSUserErrorContainerObjectNotFound",
        format!("The container '{}' was not found in this vault.", crate::error::shorten(given)),
    ))
}

pub(crate) fn check_fabric(params: &Params) -> Result<(), ArmError> {
    match params.get("fabric") {
        Some(fabric) if !fabric.eq_ignore_ascii_case("Azure") => Err(ArmError::new(
            StatusCode::NOT_FOUND,
            "BMSUserErrorFabricNotFound",
            format!("There is no backup fabric '{}'; there is one, 'Azure'.", crate::error::shorten(fabric)),
        )),
        _ => Ok(()),
    }
}
