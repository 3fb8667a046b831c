//! What a machine needs of an image's kernel until it has the image itself.

use std::path::{Path, PathBuf};

use super::image::{MODULES, read, read_config, read_kernel, write};
use super::{Import, ImportError};
use crate::boot::Part;
use crate::digest;
use crate::manifest::{FORMAT, Source};
use crate::modules::ModuleTree;
use crate::rootfs::Image;

/// Greatest size of all of them but the kernel, in bytes. Debian's have less than 4 MiB.
const MAX_SIZE: usize = 128 << 20;

/// Greatest size of the index of modules, in bytes. Debian's has less than 1 MiB.
const MAX_INDEX: usize = 8 << 20;

/// Greatest number of modules. Debian's are about forty.
const MAX_MODULES: usize = 512;

/// A kernel, its configuration, if that is known, those of its modules that are loaded at boot, and
/// the index of them, in memory: what is looked at is what is used, whatever becomes of the image.
#[derive(Debug)]
pub(crate) struct BootFiles {
    kernel: PathBuf,
    release: String,
    /// The content of each, and where an [`Import`] has it; the kernel is the first.
    files: Vec<(PathBuf, Vec<u8>)>,
    /// As many bytes may follow.
    left: usize,
}

impl BootFiles {
    /// Reads those of the kernel at `kernel`.
    pub(crate) fn read(image: &Image, kernel: &Path) -> Result<Self, ImportError> {
        let (content, release) = read_kernel(image, kernel)?;
        let mut place = Import::new(Path::new(""));
        place.set_release(&release)?;
        let mut files = Self {
            kernel: kernel.into(),
            release,
            files: vec![(place.image(), content)],
            left: MAX_SIZE,
        };
        if let Some(config) = read_config(image, &files.release) {
            files.push(place.config(), config)?;
        }
        let (from, to) = (Path::new(MODULES).join(&files.release), place.tree());
        let index = |name| read(image, &from.join(name));
        let dependencies = index("modules.dep")?;
        // One that was built without modules has none.
        let built_in = index("modules.builtin").unwrap_or_default();
        if dependencies.len() + built_in.len() > MAX_INDEX {
            let reason = format!("the index of its modules has more than {MAX_INDEX} bytes");
            return Err(files.hostile(reason));
        }
        let tree = ModuleTree::of_index(
            to.clone(),
            &String::from_utf8_lossy(&dependencies),
            &String::from_utf8_lossy(&built_in),
        );
        files.push(to.join("modules.dep"), dependencies)?;
        files.push(to.join("modules.builtin"), built_in)?;
        let wanted: Vec<_> = Part::ALL
            .iter()
            .flat_map(|part| part.modules())
            .copied()
            .collect();
        let names = tree.load_order(&wanted);
        if names.len() > MAX_MODULES {
            let reason = format!("more than {MAX_MODULES} of its modules are needed at boot");
            return Err(files.hostile(reason));
        }
        for name in names {
            let path = tree.path(&name);
            files.push(to.join(path), read(image, &from.join(path))?)?;
        }
        Ok(files)
    }

    fn push(&mut self, path: PathBuf, content: Vec<u8>) -> Result<(), ImportError> {
        let left = self.left.checked_sub(content.len());
        self.left = left.ok_or_else(|| {
            self.hostile(format!(
                "its modules needed at boot have more than {MAX_SIZE} bytes"
            ))
        })?;
        self.files.push((path, content));
        Ok(())
    }

    fn hostile(&self, reason: String) -> ImportError {
        ImportError::Hostile {
            path: self.kernel.clone(),
            reason,
        }
    }

    /// A digest of all of them, and of how bundles are made, in hexadecimal.
    pub(crate) fn digest(&self) -> String {
        let format = FORMAT.to_le_bytes();
        let files = self.files.iter();
        let files =
            files.map(|(path, content)| (path.as_os_str().as_encoded_bytes(), &content[..]));
        digest::of_parts([(&b"format"[..], &format[..])].into_iter().chain(files))
    }

    /// Writes them to `import`.
    pub(crate) fn write(&self, import: &mut Import) -> Result<(), ImportError> {
        import.set_release(&self.release)?;
        for (path, content) in &self.files {
            write(&import.dir.join(path), content)?;
        }
        let (_, kernel) = &self.files[0];
        import.source.push(Source {
            name: self.kernel.display().to_string(),
            version: None,
            sha256: digest::of_bytes(kernel),
        });
        import.indexed = true;
        Ok(())
    }
}
