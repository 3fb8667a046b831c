use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::compression::tests::compress;

/// A tree of modules with dependencies, and of names of what is built in.
pub(crate) fn tree(modules: &[(&str, &[&str])], built_in: &[&str]) -> (TempDir, ModuleTree) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("kernel")).unwrap();
    let mut index = String::new();
    for (name, dependencies) in modules {
        let dependencies = dependencies.iter().map(|d| format!(" kernel/{d}.ko.xz"));
        index += &format!("kernel/{name}.ko.xz:{}\n", dependencies.collect::<String>());
        let content = compress(Format::Xz, format!("\x7fELF {name}").as_bytes());
        fs::write(dir.path().join(format!("kernel/{name}.ko.xz")), content).unwrap();
    }
    let built_in: String = built_in
        .iter()
        .map(|m| format!("kernel/x/{m}.ko\n"))
        .collect();
    fs::write(dir.path().join("modules.dep"), index).unwrap();
    fs::write(dir.path().join("modules.builtin"), built_in).unwrap();
    let tree = ModuleTree::read_index(dir.path().into()).unwrap();
    (dir, tree)
}

#[test]
fn a_module_is_of_its_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("6.1");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("modules.dep"), "a.ko:\nb.ko:\nc.ko:\n").unwrap();
    fs::write(root.join("a.ko"), "\x7fELF\0vermagic=6.1 SMP mod_unload\0").unwrap();
    fs::write(root.join("b.ko"), "\x7fELF\0vermagic=6.12 SMP\0").unwrap();
    fs::write(root.join("c.ko"), "\x7fELF").unwrap();
    let tree = ModuleTree::read_index(root).unwrap();
    assert!(tree.read("a").is_ok() && tree.read("c").is_ok());
    let error = tree.read("b").unwrap_err().to_string();
    assert_eq!(error, "the module b is for the kernel 6.12, not for 6.1");
}

#[test]
fn a_module_that_is_a_bomb_is_damaged() {
    let (dir, tree) = tree(&[("a", &[])], &[]);
    let bomb = compress(Format::Xz, &vec![0; MAX_MODULE + 1]);
    fs::write(dir.path().join("kernel/a.ko.xz"), bomb).unwrap();
    assert!(matches!(tree.read("a"), Err(ModuleError::Damaged(..))));
}

#[test]
fn dependencies_are_loaded_first_and_once() {
    let (_dir, tree) = tree(
        &[
            ("virtio", &[]),
            ("virtio_ring", &["virtio"]),
            (
                "virtio_net",
                &["net_failover", "failover", "virtio_ring", "virtio"],
            ),
            ("net_failover", &["failover"]),
            ("failover", &[]),
            ("virtio-rng", &["virtio", "virtio_ring"]),
        ],
        &["virtiofs"],
    );
    let order = tree.load_order(&["virtio_rng", "virtiofs", "virtio_net", "nonexistent"]);
    assert_eq!(
        order,
        [
            "virtio",
            "virtio_ring",
            "virtio_rng",
            "failover",
            "net_failover",
            "virtio_net"
        ]
    );
    assert_eq!(tree.support("virtiofs"), Support::BuiltIn);
    assert_eq!(tree.support("virtio_rng"), Support::Module);
    assert_eq!(tree.support("nonexistent"), Support::Absent);
    assert_eq!(tree.read("virtio_rng").unwrap(), b"\x7fELF virtio-rng");
}

#[test]
fn a_cycle_of_dependencies_ends() {
    let (_dir, tree) = tree(&[("a", &["b"]), ("b", &["a"])], &[]);
    assert_eq!(tree.load_order(&["a"]), ["b", "a"]);
}

#[test]
fn a_chain_of_any_length_is_followed() {
    let length = 200_000;
    let index: String = (0..length)
        .map(|n| format!("m{n}.ko: m{}.ko\n", n + 1))
        .collect();
    let tree = ModuleTree::of_index("/".into(), &index, "");
    let order = tree.load_order(&["m0"]);
    assert_eq!(order.len(), length);
    assert_eq!(
        (order[0].as_str(), order[length - 1].as_str()),
        ("m199999", "m0")
    );
}

#[test]
fn paths_that_lead_out_of_the_tree_are_left_out() {
    let index = "../../etc/passwd.ko:\n/etc/shadow.ko:\nkernel/a.ko:\n";
    let modules = parse_dependencies(index);
    assert_eq!(modules.keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn damaged_modules_are_named() {
    let (dir, tree) = tree(&[("a", &[]), ("b", &[])], &[]);
    fs::write(dir.path().join("kernel/a.ko.xz"), "hello").unwrap();
    let whole = fs::read(dir.path().join("kernel/b.ko.xz")).unwrap();
    fs::write(dir.path().join("kernel/b.ko.xz"), &whole[..20]).unwrap();
    let error = |name| tree.read(name).unwrap_err().to_string();
    assert_eq!(error("a"), "the module a is damaged: it is not an ELF file");
    assert_eq!(error("b"), "the module b is damaged");
}

#[test]
fn a_signature_is_taken_off() {
    let signed = |length: u8| {
        let mut module = b"\x7fELF module".to_vec();
        module.extend([0xaa; 30]);
        module.extend([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, length]);
        module.extend(b"~Module signature appended~\n");
        module
    };
    assert_eq!(unsigned_length(&signed(30)), b"\x7fELF module".len());
    assert_eq!(
        unsigned_length(&signed(200)),
        signed(200).len(),
        "nonsense stays"
    );
    assert_eq!(unsigned_length(b"~Module signature appended~\n"), 28);
    assert_eq!(unsigned_length(b"\x7fELF"), 4);
}

proptest! {
    #[test]
    fn any_index_is_read(text in ".{0,200}", lines in proptest::collection::vec("[a-z./: -]{0,20}", 0..20)) {
        parse_dependencies(&text);
        parse_dependencies(&lines.join("\n"));
    }
}
