package inode

import "strings"

// checkName verifies a name of an entry. The two names that every directory
// has by itself get the errors that the caller's system call gives for them.
func checkName(name string, dot, dotdot error) error {
	switch {
	case name == "":
		return ErrNotExist
	case name == ".":
		return dot
	case name == "..":
		return dotdot
	case len(name) > MaxName:
		return ErrNameTooLong
	case strings.ContainsAny(name, "/\x00"):
		return ErrInvalid
	}
	return nil
}

// checkNewName is checkName for a name that shall come into being.
func checkNewName(name string) error { return checkName(name, ErrExist, ErrExist) }
