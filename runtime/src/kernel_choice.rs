//! Which kernel a container's machine boots.

use anyhow::{Context, Result};
use runcvm_kernels::import::image;
use runcvm_kernels::rootfs::Image;
use runcvm_kernels::{Prefix, Store, StoreError, in_image, os_release};

use crate::container::Kernel;

/// Distributions that say what they are like, and whose bundles suit those.
const COMPATIBLE: [(&str, &str); 3] = [("rhel", "ol"), ("centos", "ol"), ("openwrt", "alpine")];

/// A kernel, and what is to be said about it.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) kernel: Kernel,
    /// The release of its modules, unless the image has them. Whether it can be used at all is told by
    /// the container when it starts.
    pub(crate) release: Option<String>,
    pub(crate) warning: Option<String>,
}

/// The bundle called `asked` if that is given, and must be installed. Else the kernel that the
/// image has; else the bundle of the image's distribution, or of one that it is like; and the
/// default if none of them is installed.
pub(crate) fn choose(
    asked: Option<&str>,
    prefix: &Prefix,
    image: Option<&Image>,
) -> Result<Choice> {
    let store = Store::new(prefix);
    if let Some(name) = asked {
        let bundle = store.resolve(Some(name))?;
        return Ok(Choice {
            kernel: Kernel::Bundle(name.into()),
            release: Some(bundle.manifest.release),
            warning: None,
        });
    }
    let distributions = image.map(os_release::distributions).unwrap_or_default();
    let own = image.and_then(|image| of_image(image, &distributions, prefix));
    let warning = match own.transpose() {
        Ok(Some(kernel)) => {
            return Ok(Choice {
                kernel,
                release: None,
                warning: None,
            });
        }
        Ok(None) => None,
        Err(error) => Some(format!("the kernel of the image is not used: {error:#}")),
    };
    let name = installed(&distributions, &store)?;
    if name.is_none() && store.default_name().is_none() {
        return Err(StoreError::Empty.into());
    }
    let bundle = store.resolve(name.as_deref());
    Ok(Choice {
        kernel: name.map_or(Kernel::Default, Kernel::Bundle),
        release: bundle.ok().map(|bundle| bundle.manifest.release),
        warning,
    })
}

/// The kernel that the image has, if it has one.
fn of_image(image: &Image, distributions: &[String], prefix: &Prefix) -> Option<Result<Kernel>> {
    let kernel = image::find(image, distributions)?;
    let bundle = || {
        let bundle = in_image::bundle(image, &kernel, &prefix.cache())?;
        let below = bundle.strip_prefix(prefix.path());
        let below = below.with_context(|| {
            format!(
                "{} cannot be written, where it would be kept",
                prefix.path().display()
            )
        })?;
        Ok(Kernel::OfImage(below.into()))
    };
    Some(bundle())
}

/// The first of these distributions of which a bundle is installed, or which a bundle suits.
fn installed(distributions: &[String], store: &Store) -> Result<Option<String>> {
    let names = store.names()?;
    let is_installed = |wanted: &&str| names.iter().any(|name| name.distribution == *wanted);
    let suiting = |word| {
        COMPATIBLE
            .into_iter()
            .filter(move |(like, _)| *like == word)
    };
    let mut bundles = distributions.iter().flat_map(|word| {
        let others = suiting(word.as_str()).map(|(_, bundle)| bundle);
        [word.as_str()].into_iter().chain(others)
    });
    Ok(bundles.find(is_installed).map(ToOwned::to_owned))
}

#[cfg(test)]
#[path = "kernel_choice_test.rs"]
mod tests;
