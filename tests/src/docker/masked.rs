//! Output without what differs between two containers anyhow.

use super::Runtime;

/// `bytes` with the names of our containers as those of runc's, and `ID` for each that docker
/// has thought of: hexadecimal words of 12 or 64 digits.
pub(super) fn masked(bytes: &[u8], runtime: Runtime) -> Vec<u8> {
    let mut result = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(&first) = rest.first() {
        let word = rest
            .iter()
            .take_while(|b| b.is_ascii_alphanumeric())
            .count();
        let (head, tail) = rest.split_at(word.max(1));
        rest = tail;
        if is_id(head) {
            result.extend_from_slice(b"ID");
        } else if runtime == Runtime::Runcvm && head == b"runcvm" && result.ends_with(b"-") {
            result.extend_from_slice(b"runc");
        } else if word == 0 {
            result.push(first);
        } else {
            result.extend_from_slice(head);
        }
    }
    result
}

fn is_id(word: &[u8]) -> bool {
    let hexadecimal = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (word.len() == 12 || word.len() == 64)
        && word.iter().all(hexadecimal)
        && word.iter().any(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_and_names_are_masked() {
        let id = "0123456789ab".repeat(6)[..64].to_owned();
        let text = format!("{id} a1b2c3d4e5f6/plain-runcvm runcvm 1a2b3c {id}0\nfeedfeedfeed");
        let expected = format!("ID ID/plain-runc runcvm 1a2b3c {id}0\nfeedfeedfeed");
        assert_eq!(
            masked(text.as_bytes(), Runtime::Runcvm),
            expected.as_bytes()
        );
    }

    #[test]
    fn bytes_that_are_no_text_stay() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(masked(&all, Runtime::Runc), all);
    }
}
