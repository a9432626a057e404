package jcs

import "strconv"

// IsInteger says whether s is a JSON number without fraction and exponent: an
// integer in decimal, without leading zeros.
func IsInteger(s string) bool {
	if s != "" && s[0] == '-' {
		s = s[1:]
	}
	if s == "" || s[0] == '0' && len(s) > 1 {
		return false
	}
	return digits(s) == len(s)
}

// IsNumber says whether s is a number by the grammar of RFC 8259, section 6.
func IsNumber(s string) bool {
	if s != "" && s[0] == '-' {
		s = s[1:]
	}
	n := digits(s)
	if n == 0 || s[0] == '0' && n > 1 {
		return false
	}
	s = s[n:]
	if s != "" && s[0] == '.' {
		n = digits(s[1:])
		if n == 0 {
			return false
		}
		s = s[1+n:]
	}
	if s != "" && (s[0] == 'e' || s[0] == 'E') {
		s = s[1:]
		if s != "" && (s[0] == '+' || s[0] == '-') {
			s = s[1:]
		}
		n = digits(s)
		return n > 0 && n == len(s)
	}
	return s == ""
}

// digits counts the decimal digits at the start of s.
func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// LoneSurrogate says whether a JSON text has a \uXXXX escape that is half a
// surrogate pair, which encoding/json would replace in silence.
func LoneSurrogate(raw []byte) bool {
	high := -1 // where the escape after a high surrogate must stand
	for i := 0; i+1 < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		if raw[i+1] != 'u' || i+6 > len(raw) {
			i++
			continue
		}
		u, _ := strconv.ParseUint(string(raw[i+2:i+6]), 16, 32)
		switch isHigh, isLow := u >= 0xd800 && u < 0xdc00, u >= 0xdc00 && u < 0xe000; {
		case isLow && high != i, !isLow && high >= 0:
			return true
		case isHigh:
			high = i + 6
		default:
			high = -1
		}
		i += 5
	}
	return high >= 0
}
