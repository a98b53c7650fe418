//! PAX extended headers: records that say what doesn't fit into a header block.
//!
//! (POSIX.1-2017 pax, "pax Extended Header".) A record is `<its length> <keyword>=<value>\n`; values are bytes of any
//! kind, new lines and null bytes too, so only the length tells where one ends.

use super::Fault;
use super::entry::Time;
use super::sparse::Map;

/// What an entry's extended header says about it. What isn't here (access times, user names) has no use.
#[derive(Debug, Default)]
pub(crate) struct Extended {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<Time>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: Sparse,
}

/// Records of GNU's sparse forms.
#[derive(Debug, Default)]
pub(crate) struct Sparse {
    pub(crate) version: (u64, u64),
    /// Any such record was there.
    pub(crate) present: bool,
    pub(crate) size: Option<u64>,
    pub(crate) name: Option<Vec<u8>>,
    /// The map, where the records themselves have it.
    pub(crate) map: Option<Map>,
    offset: Option<u64>,
}

const BAD_RECORD: Fault = Fault::Archive("an extended header is malformed");

impl Extended {
    /// Parses the content of an extended header.
    pub(crate) fn parse(mut bytes: &[u8]) -> Result<Extended, Fault> {
        let mut extended = Extended::default();
        while !bytes.is_empty() {
            let (record, rest) = split_record(bytes).ok_or(BAD_RECORD)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(BAD_RECORD)?;
            extended.set(&record[..equals], &record[equals + 1..])?;
            bytes = rest;
        }
        Ok(extended)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        // An empty value takes back an earlier record (of this header; global ones aren't applied at all).
        match key {
            b"path" => self.path = name(value)?,
            b"linkpath" => self.link = name(value)?,
            b"size" => self.size = number(value)?,
            b"uid" => self.uid = number(value)?,
            b"gid" => self.gid = number(value)?,
            b"mtime" => {
                self.mtime = if value.is_empty() { None } else { Some(time(value).ok_or(BAD_RECORD)?) }
            }
            _ => {
                if let Some(key) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.set_xattr(key, value)?;
                } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(key, value)?;
                }
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        // XATTR_NAME_MAX and XATTR_SIZE_MAX (linux/limits.h).
        if key.is_empty() || key.len() > 255 || key.contains(&0) || value.len() > 65_536 {
            return Err(Fault::Archive("an extended attribute is beyond the kernel's bounds"));
        }
        self.xattrs.retain(|(name, _)| name != key);
        self.xattrs.push((key.to_owned(), value.to_owned()));
        Ok(())
    }
}

impl Sparse {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.present = true;
        match key {
            b"major" => self.version.0 = number(value)?.ok_or(BAD_RECORD)?,
            b"minor" => self.version.1 = number(value)?.ok_or(BAD_RECORD)?,
            b"size" | b"realsize" => self.size = number(value)?,
            b"name" => self.name = name(value)?,
            b"offset" => self.offset = number(value)?,
            b"numbytes" => {
                let (offset, length) =
                    (self.offset.take().ok_or(BAD_RECORD)?, number(value)?.ok_or(BAD_RECORD)?);
                self.map.get_or_insert_default().push(offset, length)?;
            }
            b"map" => {
                let mut map = Map::default();
                let mut numbers = value.split(|byte| *byte == b',').filter(|text| !text.is_empty());
                while let Some(offset) = numbers.next() {
                    let length = numbers.next().ok_or(BAD_RECORD)?;
                    map.push(number(offset)?.ok_or(BAD_RECORD)?, number(length)?.ok_or(BAD_RECORD)?)?;
                }
                self.map = Some(map);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The first record's keyword and value, and what follows it.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
        return None;
    }
    Some((&bytes[space + 1..length - 1], &bytes[length..]))
}

fn name(value: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
    if value.contains(&0) {
        return Err(BAD_RECORD);
    }
    Ok((!value.is_empty()).then(|| value.to_owned()))
}

fn number(value: &[u8]) -> Result<Option<u64>, Fault> {
    if value.is_empty() {
        return Ok(None);
    }
    if !value.iter().all(u8::is_ascii_digit) {
        return Err(BAD_RECORD);
    }
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).map(Some).ok_or(BAD_RECORD)
}

/// Decimal seconds with an optional sign and fraction; digits beyond nanoseconds are cut off.
fn time(value: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(value).ok()?;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty()
        || !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        || fraction.contains('.')
    {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let digits = format!("{:0<9.9}", fraction);
    let nanoseconds: u32 = digits.parse().ok()?;
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_any_byte() {
        let bytes = b"31 SCHILY.xattr.user.k=a\nb=\0\xffc\n12 path=a/b\n";
        let extended = Extended::parse(bytes);
        let extended = extended.unwrap();
        assert_eq!(extended.xattrs, [(b"user.k".to_vec(), b"a\nb=\0\xffc".to_vec())]);
        assert_eq!(extended.path.as_deref(), Some(&b"a/b"[..]));
    }

    #[test]
    fn malformed_records_are_refused() {
        for bytes in [
            &b"11 path=a/b\n"[..],
            b"13 path=a/b\n",
            b"path=a/b\n",
            b"9 patha\n\n",
            b"12 path=a/bX",
            b"0 path=a\n",
            b"18446744073709551616 path=a\n",
            b"11 size=-1\n",
            b"10 size=x\n",
            b"12 path=a\0b\n",
        ] {
            assert!(Extended::parse(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn times_of_any_sign_and_fraction() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("1.5", 1, 500_000_000),
            ("1350244992.0239602301", 1_350_244_992, 23_960_230),
            ("-1.5", -2, 500_000_000),
            ("-0.25", -1, 750_000_000),
            ("-7", -7, 0),
        ] {
            assert_eq!(time(text.as_bytes()), Some(Time { seconds, nanoseconds }), "{text}");
        }
        for text in ["", ".", ".5", "1.2.3", "1e5", "+1", "--1", "9223372036854775808"] {
            assert_eq!(time(text.as_bytes()), None, "{text}");
        }
    }
}
