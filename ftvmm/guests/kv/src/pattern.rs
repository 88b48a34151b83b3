//! Patterns of KEYS: `*`, `?`, `[a-z]`, `[^a]`, and `\` before a character that stands for itself.

/// Whether the whole text matches.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut position) = (0, 0);
    // Where to go on after the last star: its place in the pattern, and the first character it does not cover.
    let mut star: Option<(usize, usize)> = None;
    while position < text.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at, position));
            at += 1;
        } else if let Some(next) = match_one(pattern, at, text[position]) {
            at = next;
            position += 1;
        } else if let Some((star_at, covered)) = star {
            star = Some((star_at, covered + 1));
            (at, position) = (star_at + 1, covered + 1);
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// Matches one character; returns where the pattern goes on.
fn match_one(pattern: &[u8], at: usize, character: u8) -> Option<usize> {
    match *pattern.get(at)? {
        b'?' => Some(at + 1),
        b'[' => match_class(pattern, at + 1, character),
        b'\\' if at + 1 < pattern.len() => (pattern[at + 1] == character).then_some(at + 2),
        literal => (literal == character).then_some(at + 1),
    }
}

fn match_class(pattern: &[u8], start: usize, character: u8) -> Option<usize> {
    let negated = pattern.get(start) == Some(&b'^');
    let mut at = start + usize::from(negated);
    let mut found = false;
    while at < pattern.len() && pattern[at] != b']' {
        at += usize::from(pattern[at] == b'\\' && at + 1 < pattern.len());
        let first = pattern[at];
        let is_range = pattern.get(at + 1) == Some(&b'-') && at + 2 < pattern.len() && pattern[at + 2] != b']';
        let last = if is_range { pattern[at + 2] } else { first };
        found |= (first.min(last)..=first.max(last)).contains(&character);
        at += if is_range { 3 } else { 1 };
    }
    (found != negated).then_some(at + 1).map(|end| end.min(pattern.len()))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_those_of_redis() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("a*b*c", "aXXbYYc", true),
            ("a*b*c", "aXXbYY", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("[", "x", false),
            ("abc", "abcd", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }
}
