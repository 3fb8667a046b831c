//! `RUNCVM_RUNTIME_DEBUG`: what the runtime was asked and what it made of it, in a file.

use std::env;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Value, json};

/// Writes a file to `/tmp`. A failure must not be one of the container's.
pub(crate) fn write(documents: &[(&str, &Value)], message: &impl Serialize) {
    if let Err(error) = try_write(documents, message) {
        eprintln!("runcvm-runtime: no debug log can be written to /tmp: {error}");
    }
}

fn try_write(documents: &[(&str, &Value)], message: &impl Serialize) -> io::Result<()> {
    let args: Vec<_> = env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let mut log = json!({ "args": args, "message": serde_json::to_value(message)? });
    for (name, document) in documents {
        log[*name] = (*document).clone();
    }
    let prefix = format!("runcvm-{}-", std::process::id());
    let mut file = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".log")
        .tempfile_in("/tmp")?;
    file.write_all(&serde_json::to_vec_pretty(&log)?)?;
    file.keep()?;
    Ok(())
}
