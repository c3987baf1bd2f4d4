//! Numbers as text.

use super::append;

/// An integer.
#[inline]
pub(in crate::mysql) fn decimal(out: &mut Vec<u8>, magnitude: u64, negative: bool) {
    if negative {
        out.push(b'-');
    }
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = magnitude;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// A DOUBLE as the servers print it: the shortest digits that give the same number back, and of two
/// equally near the even ones.
pub(in crate::mysql) fn double(out: &mut Vec<u8>, number: f64) {
    if !number.is_finite() {
        return append(out, &number); // not storable; the text is as good as any
    }
    let shortest = format!("{number:e}");
    let digits = shortest.bytes().take_while(|byte| *byte != b'e');
    let digits = digits.filter(u8::is_ascii_digit).count();
    // As many digits, correctly rounded: the shortest form does not say which of two ties it is.
    let rounded = format!("{number:.*e}", digits.saturating_sub(1));
    match rounded.parse::<f64>() {
        Ok(same) if same.to_bits() == number.to_bits() => layout(out, &rounded),
        _ => layout(out, &shortest),
    }
}

/// A FLOAT, with the shortest digits that give the same number back.
pub(in crate::mysql) fn float(out: &mut Vec<u8>, number: f32) {
    if !number.is_finite() {
        return append(out, &number);
    }
    layout(out, &format!("{number:e}"));
}

/// Puts the point where `my_gcvt` puts it: in scientific form (`1.5e20`, `1e-16`) when the number is
/// below 1e-15, or not below 1e15 and without a fraction; otherwise plain.
fn layout(out: &mut Vec<u8>, scientific: &str) {
    let (sign, rest) = match scientific.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", scientific),
    };
    let (mantissa, exponent) = rest.split_once('e').unwrap_or((rest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits: String = mantissa.chars().filter(|digit| *digit != '.').collect();
    /// `MAX_DECPT_FOR_F_FORMAT`, DBL_DIG.
    const PLAIN: i32 = 15;
    let point = exponent + 1;
    out.extend_from_slice(sign.as_bytes());
    if digits == "0" {
        out.push(b'0');
    } else if point < -PLAIN + 1 || (point > PLAIN && digits.len() as i32 <= point) {
        out.extend_from_slice(mantissa.as_bytes());
        append(out, &format_args!("e{exponent}"));
    } else if point <= 0 {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + point.unsigned_abs() as usize, b'0');
        out.extend_from_slice(digits.as_bytes());
    } else {
        let point = point as usize;
        let (whole, fraction) = digits.split_at(point.min(digits.len()));
        out.extend_from_slice(whole.as_bytes());
        out.resize(out.len() + point - whole.len(), b'0');
        if !fraction.is_empty() {
            out.push(b'.');
            out.extend_from_slice(fraction.as_bytes());
        }
    }
}
