//! Requests: arrays of bulk strings, or lines of words (inline commands).

use alloc::vec::Vec;

/// The most arguments of a request.
const ARGUMENTS_MAX: i64 = 16_384;
/// The longest line: a length, or an inline command, in bytes.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// What makes a request unreadable; the connection ends with it. The messages are those of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// invalid multibulk length
    #[error("ERR Protocol error: invalid multibulk length")]
    MultibulkLength,
    /// invalid bulk length
    #[error("ERR Protocol error: invalid bulk length")]
    BulkLength,
    /// something else where a bulk string should begin
    #[error("ERR Protocol error: expected '$', got '{}'", .0.escape_ascii())]
    Dollar(u8),
    /// a length without end
    #[error("ERR Protocol error: too big mbulk count string")]
    LongCount,
    /// an inline command without end
    #[error("ERR Protocol error: too big inline request")]
    LongInline,
    /// quotes of an inline command that do not match
    #[error("ERR Protocol error: unbalanced quotes in request")]
    Quotes,
    /// more than the server has room for
    #[error("ERR Protocol error: the request is too large")]
    Large,
}

/// A request, and how many bytes of the input it took. It may have no arguments: then there is nothing to answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// command and arguments
    pub arguments: Vec<Argument<'a>>,
    /// length in bytes
    pub length: usize,
}

/// An argument: a piece of the input, or what an inline command's quotes stand for.
pub type Argument<'a> = alloc::borrow::Cow<'a, [u8]>;

/// Reads the request at the beginning of the input, or None where it is not all there. `bytes_max` bounds a request.
///
/// # Errors
/// Where it is no request.
pub fn parse(input: &[u8], bytes_max: usize) -> Result<Option<Request<'_>>, ProtocolError> {
    match input.first() {
        None => Ok(None),
        Some(b'*') => parse_array(input, bytes_max),
        Some(_) => parse_inline(input),
    }
}

/// The line that begins at `start`, without its end, and where the next one begins.
fn line(input: &[u8], start: usize, too_long: ProtocolError) -> Result<Option<(&[u8], usize)>, ProtocolError> {
    let rest = &input[start..];
    match rest.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') {
        Some(end) => Ok(Some((rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]), start + end + 1))),
        None if rest.len() >= LINE_BYTES_MAX => Err(too_long),
        None => Ok(None),
    }
}

/// A decimal number as Redis takes it in lengths: no plus sign, no leading zeros, no spaces.
fn number(digits: &[u8]) -> Option<i64> {
    let text = core::str::from_utf8(digits).ok()?;
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let canonical = unsigned == "0" || unsigned.starts_with(|first: char| ('1'..='9').contains(&first));
    if canonical { text.parse().ok() } else { None }
}

fn parse_array(input: &[u8], bytes_max: usize) -> Result<Option<Request<'_>>, ProtocolError> {
    let Some((digits, mut at)) = line(input, 1, ProtocolError::LongCount)? else { return Ok(None) };
    let count = number(digits).filter(|count| *count <= ARGUMENTS_MAX).ok_or(ProtocolError::MultibulkLength)?;
    let mut arguments = Vec::new();
    for _ in 0..count {
        match input.get(at) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(other) => return Err(ProtocolError::Dollar(*other)),
        }
        let Some((digits, start)) = line(input, at + 1, ProtocolError::LongCount)? else { return Ok(None) };
        let length = number(digits).and_then(|length| usize::try_from(length).ok()).ok_or(ProtocolError::BulkLength)?;
        if length > bytes_max {
            return Err(ProtocolError::BulkLength);
        }
        let end = start + length;
        if end > bytes_max + LINE_BYTES_MAX {
            return Err(ProtocolError::Large);
        }
        if input.len() < end + 2 {
            return Ok(None);
        }
        if &input[end..end + 2] != b"\r\n" {
            return Err(ProtocolError::BulkLength);
        }
        arguments.push(Argument::Borrowed(&input[start..end]));
        at = end + 2;
    }
    Ok(Some(Request { arguments, length: at }))
}

fn parse_inline(input: &[u8]) -> Result<Option<Request<'_>>, ProtocolError> {
    let Some((line, length)) = line(input, 0, ProtocolError::LongInline)? else { return Ok(None) };
    let mut arguments = Vec::new();
    let mut rest = line.trim_ascii_start();
    while !rest.is_empty() {
        let argument;
        (argument, rest) = match rest[0] {
            quote @ (b'"' | b'\'') => quoted(rest, quote)?,
            _ => {
                let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
                (Argument::Borrowed(&rest[..end]), &rest[end..])
            }
        };
        arguments.push(argument);
        rest = rest.trim_ascii_start();
    }
    Ok(Some(Request { arguments, length }))
}

/// A word in quotes, in which a backslash escapes; and what follows it.
fn quoted(text: &[u8], quote: u8) -> Result<(Argument<'_>, &[u8]), ProtocolError> {
    let mut word = Vec::new();
    let mut at = 1;
    loop {
        match *text.get(at).ok_or(ProtocolError::Quotes)? {
            byte if byte == quote => break,
            b'\\' if quote == b'"' || text.get(at + 1) == Some(&quote) => {
                at += 1;
                word.push(match *text.get(at).ok_or(ProtocolError::Quotes)? {
                    b'n' if quote == b'"' => b'\n',
                    b'r' if quote == b'"' => b'\r',
                    b't' if quote == b'"' => b'\t',
                    other => other,
                });
            }
            byte => word.push(byte),
        }
        at += 1;
    }
    let rest = &text[at + 1..];
    if rest.first().is_some_and(|next| !next.is_ascii_whitespace()) {
        return Err(ProtocolError::Quotes);
    }
    Ok((Argument::Owned(word), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const BYTES_MAX: usize = 4096;

    fn encode(arguments: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            bytes.extend(format!("${}\r\n", argument.len()).into_bytes());
            bytes.extend(argument);
            bytes.extend(b"\r\n");
        }
        bytes
    }

    proptest! {
        #[test]
        fn a_request_is_read_once_it_is_whole(
            arguments in vec(vec(any::<u8>(), 0..20), 1..6), next in vec(any::<u8>(), 0..10)
        ) {
            let bytes = encode(&arguments);
            for length in 0..bytes.len() {
                prop_assert_eq!(parse(&bytes[..length], BYTES_MAX), Ok(None));
            }
            let input = [bytes.as_slice(), &next].concat();
            let request = parse(&input, BYTES_MAX).unwrap().unwrap();
            prop_assert_eq!(request.length, bytes.len());
            prop_assert_eq!(request.arguments.iter().map(|it| it.to_vec()).collect::<Vec<_>>(), arguments);
        }

        #[test]
        fn no_input_upsets_it(input in vec(prop_oneof![any::<u8>(), Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'1')], 0..60)) {
            if let Ok(Some(request)) = parse(&input, BYTES_MAX) {
                prop_assert!(request.length <= input.len());
            }
        }
    }

    #[test]
    fn mistakes_get_the_errors_of_redis() {
        let error = |input: &str| parse(input.as_bytes(), BYTES_MAX).unwrap_err().to_string();
        assert_eq!(error("*x\r\n"), "ERR Protocol error: invalid multibulk length");
        assert_eq!(error("*99999999\r\n"), "ERR Protocol error: invalid multibulk length");
        assert_eq!(error("*1\r\n:1\r\n"), "ERR Protocol error: expected '$', got ':'");
        assert_eq!(error("*1\r\n$-1\r\n"), "ERR Protocol error: invalid bulk length");
        assert_eq!(error("*1\r\n$4097\r\n"), "ERR Protocol error: invalid bulk length");
        assert_eq!(error("get \"a\r\n"), "ERR Protocol error: unbalanced quotes in request");
        let endless = "x".repeat(LINE_BYTES_MAX);
        assert_eq!(error(&endless), "ERR Protocol error: too big inline request");
        let large = "*16000\r\n".to_owned() + &("$4000\r\n".to_owned() + &"y".repeat(4000) + "\r\n").repeat(20);
        assert_eq!(error(&large), "ERR Protocol error: the request is too large");
    }

    #[test]
    fn inline_commands_are_words_and_quoted_words() {
        let request = parse(b"  SET \"a\\n b\" 'it\\'s'\r\nPING\r\n", BYTES_MAX).unwrap().unwrap();
        assert_eq!(request.arguments, [b"SET".as_slice(), b"a\n b", b"it's"]);
        assert_eq!(request.length, 23);
        assert!(parse(b"\r\n", BYTES_MAX).unwrap().unwrap().arguments.is_empty());
    }
}
