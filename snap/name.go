package snap

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// CheckName returns nil if a snapshot or fork may be called name, else ErrName
// or ErrNameTooLong.
func CheckName(name string) error {
	switch {
	case len(name) > 255:
		return ErrNameTooLong
	case name == "" || !utf8.ValidString(name) || name[0] == '.' || name[0] == '-':
		return ErrName
	case strings.ContainsAny(name, "/@%") || strings.ContainsFunc(name, unicode.IsControl):
		return ErrName
	}
	return nil
}
