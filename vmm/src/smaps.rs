//! `/proc/PID/smaps` (proc_pid_smaps(5)).

/// What `smaps` says of each mapping: the mapping's first line, a field's name, and the field's
/// value, of those that are sizes, in bytes.
pub fn fields(smaps: &str) -> impl Iterator<Item = (&str, &str, u64)> {
    let mut mapping = "";
    smaps.lines().filter_map(move |line| {
        // A mapping's first line begins with its address range; the others with a name.
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        let Some(name) = first.strip_suffix(':') else {
            mapping = line;
            return None;
        };
        let kib: u64 = rest.trim().strip_suffix(" kB")?.parse().ok()?;
        Some((mapping, name, kib * 1024))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_with_their_mappings() {
        let smaps = "\
1000-2000 r-xp 00000000 08:01 1   /a b
Rss:                 100 kB
VmFlags: rd ex
2000-3000 rw-p 00000000 00:00 0 
Pss:                   4 kB
";
        let found: Vec<_> = fields(smaps).collect();
        let expected = [
            ("1000-2000 r-xp 00000000 08:01 1   /a b", "Rss", 102_400),
            ("2000-3000 rw-p 00000000 00:00 0 ", "Pss", 4096),
        ];
        assert_eq!(found, expected);
        assert_eq!(fields("").count(), 0);
    }
}
