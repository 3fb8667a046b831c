//! Docker's `daemon.json`, changed as little as can be.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use serde_json::ser::PrettyFormatter;
use serde_json::{Map, Value, json};

/// The file with its content. Whatever is not ours stays in it, in its order.
#[derive(Debug)]
pub(super) struct Config {
    path: PathBuf,
    /// As it is read; none if there was no file.
    text: Option<String>,
    content: Map<String, Value>,
}

impl Config {
    /// Reads the file; that it is missing or empty is no error.
    pub(super) fn read(path: &Path) -> Result<Self> {
        // A link, perhaps into a repository of configuration, stays one.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let text = match fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                return Err(error).with_context(|| format!("{} cannot be read", path.display()));
            }
        };
        let content = match text.as_deref().map(str::trim) {
            None | Some("") => Map::new(),
            Some(text) => {
                let value: Value = serde_json::from_str(text).map_err(|error| {
                    anyhow!(
                        "{} is not JSON ({error}), so that docker cannot read it either; mend it first",
                        path.display()
                    )
                })?;
                match value {
                    Value::Object(content) => content,
                    _ => bail!("{} holds no JSON object; mend it first", path.display()),
                }
            }
        };
        Ok(Self {
            path,
            text,
            content,
        })
    }

    /// Adds a runtime. Says whether that changes anything.
    pub(super) fn add(&mut self, name: &str, program: &Path) -> Result<bool> {
        let program = program
            .to_str()
            .with_context(|| format!("{} is not UTF-8, which JSON needs", program.display()))?;
        let runtimes = self.runtimes()?;
        let entry = runtimes.entry(name).or_insert_with(|| json!({}));
        let Some(entry) = entry.as_object_mut() else {
            bail!("\"runtimes\".\"{name}\" is no JSON object; mend it first");
        };
        if entry.get("path").and_then(Value::as_str) == Some(program) {
            return Ok(false);
        }
        entry.insert("path".into(), program.into());
        Ok(true)
    }

    /// Removes a runtime. Says whether it was there. A list of runtimes stays, be it empty:
    /// docker forgets those that it knows only where it reads such a list.
    pub(super) fn remove(&mut self, name: &str) -> Result<bool> {
        if self.content.get("default-runtime").and_then(Value::as_str) == Some(name) {
            bail!(
                "{} has \"default-runtime\": \"{name}\"; choose another first",
                self.path.display()
            );
        }
        Ok(self.runtimes()?.shift_remove(name).is_some())
    }

    /// Removes the list of runtimes if it is empty.
    pub(super) fn tidy(&mut self) {
        let runtimes = self.content.get("runtimes").and_then(Value::as_object);
        if runtimes.is_some_and(Map::is_empty) {
            self.content.shift_remove("runtimes");
        }
    }

    fn runtimes(&mut self) -> Result<&mut Map<String, Value>> {
        let runtimes = self.content.entry("runtimes").or_insert_with(|| json!({}));
        match runtimes.as_object_mut() {
            Some(runtimes) => Ok(runtimes),
            None => bail!(
                "\"runtimes\" in {} is no JSON object; mend it first",
                self.path.display()
            ),
        }
    }

    /// Writes it, at once or not at all. A file that says nothing any more is removed.
    pub(super) fn write(&self) -> Result<()> {
        let failed = || format!("{} cannot be written", self.path.display());
        if self.content.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    Err(error).with_context(failed)
                }
                _ => Ok(()),
            };
        }
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory).with_context(failed)?;
        let mut file = tempfile::NamedTempFile::new_in(directory).with_context(failed)?;
        file.write_all(self.formatted()?.as_bytes())
            .with_context(failed)?;
        let mode = match fs::metadata(&self.path) {
            Ok(old) => {
                chown(file.path(), Some(old.uid()), Some(old.gid())).with_context(failed)?;
                old.mode() & 0o7777
            }
            Err(_) => 0o644,
        };
        file.as_file()
            .set_permissions(Permissions::from_mode(mode))
            .with_context(failed)?;
        file.as_file().sync_all().with_context(failed)?;
        file.persist(&self.path).with_context(failed)?;
        Ok(())
    }

    /// The text, indented as it was.
    fn formatted(&self) -> Result<String> {
        let old = self.text.as_deref().unwrap_or("\n");
        let indent = indent(old).unwrap_or("  ");
        let mut bytes = Vec::new();
        let formatter = PrettyFormatter::with_indent(indent.as_bytes());
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
        self.content.serialize(&mut serializer)?;
        if old.ends_with('\n') {
            bytes.push(b'\n');
        }
        Ok(String::from_utf8(bytes)?)
    }
}

/// What the first indented line begins with.
fn indent(text: &str) -> Option<&str> {
    text.lines().find_map(|line| {
        let rest = line.trim_start_matches([' ', '\t']);
        let indent = &line[..line.len() - rest.len()];
        (!indent.is_empty() && !rest.is_empty()).then_some(indent)
    })
}

#[cfg(test)]
mod tests;
