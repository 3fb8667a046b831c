//! JSON documents of a bundle.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// Reads a JSON file.
pub(crate) fn read(path: &Path) -> Result<Value> {
    let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let value = serde_json::from_slice(&bytes);
    value.with_context(|| format!("{} is not JSON", path.display()))
}

/// Replaces a JSON file in one step, with its owner and permissions.
pub(crate) fn replace(path: &Path, value: &Value) -> Result<()> {
    let cannot = || format!("{} cannot be written", path.display());
    let old = File::open(path)
        .and_then(|old| old.metadata())
        .with_context(cannot)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let mut new =
        tempfile::NamedTempFile::new_in(dir.unwrap_or(Path::new("."))).with_context(cannot)?;
    new.write_all(&serde_json::to_vec(value)?)
        .with_context(cannot)?;
    let file = new.as_file();
    let owned = fchown(file, Some(old.uid()), Some(old.gid()));
    owned
        .and_then(|()| file.set_permissions(old.permissions()))
        .with_context(cannot)?;
    new.persist(path).with_context(cannot)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_replaced_with_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(&path, r#"{"a": 1}"#).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(read(&path).unwrap(), json!({"a": 1}));
        replace(&path, &json!({"b": 2})).unwrap();
        assert_eq!(read(&path).unwrap(), json!({"b": 2}));
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_wrong_with_a_document_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let error = format!("{:#}", read(&path).unwrap_err());
        assert!(
            error.contains("config.json cannot be read: No such file"),
            "{error}"
        );
        fs::write(&path, "{").unwrap();
        let error = format!("{:#}", read(&path).unwrap_err());
        assert!(error.contains("config.json is not JSON"), "{error}");
    }
}
