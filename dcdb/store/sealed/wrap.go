package sealed

import (
	"crypto/hkdf"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"dcfs/dcdb/store"
)

// A wrapped key is a line of text, version 1, in base64 without padding:
//
//	1$passphrase$count$salt 16B$box of the volume's key
//	1$file$salt 16B$box of the volume's key
//
// What seals the box is made of the passphrase by PBKDF2 with HMAC-SHA-512, count
// times, of a key file by HKDF with SHA-256. Authenticated beside the key are 'k',
// the volume's UUID and the line up to the box.
//
// PBKDF2, since it is in the standard library; scrypt and Argon2, which also cost
// memory, are not. So a guess costs whoever guesses what it costs us, half a second
// of one CPU, or much less with better hardware: a passphrase must bear that. A key
// file of random bytes bears anything.
const (
	wrapVersion = "1"
	byWords     = "passphrase"
	byFile      = "file"
	saltBytes   = 16

	// stretchCount is what new wrappings have. It is in each, so it can grow.
	stretchCount = 1_000_000
	// maxStretch bounds what a superblock can ask of us: some seconds.
	maxStretch = 20_000_000
)

const (
	minKeyFile = 32
	// MaxKeyFile is how long a key file may be.
	MaxKeyFile = 32 << 10
)

// Sentinels; match them with errors.Is.
var (
	// ErrWrongKey: what the user gave does not open the volume's key.
	ErrWrongKey = errors.New("wrong key")
	// ErrBadSecret: nothing that could be a key.
	ErrBadSecret = errors.New("not usable as a key")
)

// Secret is what a user has to open a volume: a passphrase, or the contents of
// a key file. It does not print.
type Secret struct {
	how   string
	bytes []byte
	count int // of a new wrapping
}

// Passphrase returns the secret of somebody who remembers it.
func Passphrase(words string) (Secret, error) {
	if words == "" {
		return Secret{}, fmt.Errorf("%w: the passphrase is empty", ErrBadSecret)
	}
	return Secret{byWords, []byte(words), stretchCount}, nil
}

// KeyFile returns the secret that a file of random bytes is.
func KeyFile(b []byte) (Secret, error) {
	if len(b) < minKeyFile || len(b) > MaxKeyFile {
		return Secret{}, fmt.Errorf("%w: a key file has %d to %d bytes (\"head -c 32 /dev/urandom\" makes one)", ErrBadSecret, minKeyFile, MaxKeyFile)
	}
	return Secret{byFile, append([]byte(nil), b...), 0}, nil
}

// String says what kind of secret it is.
func (s Secret) String() string { return s.how }

// GoString is String.
func (s Secret) GoString() string { return s.how }

// Encode returns the secret itself, for another process.
func (s Secret) Encode() []byte { return append([]byte(s.how+"$"), s.bytes...) }

// DecodeSecret is the inverse of Encode.
func DecodeSecret(b []byte) (Secret, error) {
	how, rest, ok := strings.Cut(string(b), "$")
	switch {
	case ok && how == byWords:
		return Passphrase(rest)
	case ok && how == byFile:
		return KeyFile([]byte(rest))
	}
	return Secret{}, fmt.Errorf("%w: it is of no known kind", ErrBadSecret)
}

// wrapping is a wrapped key.
type wrapping struct {
	how   string
	count int // byWords
	salt  []byte
	box   []byte
}

var text = base64.RawStdEncoding.Strict()

func (w wrapping) String() string { return w.head() + text.EncodeToString(w.box) }

// head is the line up to the box.
func (w wrapping) head() string {
	count := ""
	if w.how == byWords {
		count = fmt.Sprintf("%d$", w.count)
	}
	return fmt.Sprintf("%s$%s$%s%s$", wrapVersion, w.how, count, text.EncodeToString(w.salt))
}

func parseWrapped(line string) (w wrapping, err error) {
	bad := func(what string) error { return fmt.Errorf("wrapped key: %s: %w", what, store.ErrCorrupt) }
	if !strings.HasPrefix(line, wrapVersion+"$") {
		return w, bad("its version is unknown")
	}
	f := strings.Split(line, "$")[1:]
	w.how, f = f[0], f[1:]
	switch w.how {
	case byFile:
	case byWords:
		if len(f) == 0 {
			return w, bad("it is short")
		}
		if w.count, err = strconv.Atoi(f[0]); err != nil || w.count < 1 || w.count > maxStretch || strconv.Itoa(w.count) != f[0] {
			return w, bad("its count makes no sense")
		}
		f = f[1:]
	default:
		return w, bad("its kind is unknown")
	}
	if len(f) != 2 {
		return w, bad("it has other parts than it should")
	}
	var errs [2]error
	w.salt, errs[0] = text.DecodeString(f[0])
	w.box, errs[1] = text.DecodeString(f[1])
	if errors.Join(errs[:]...) != nil || len(w.salt) != saltBytes || len(w.box) != keyBytes+boxBytes || w.String() != line {
		return w, bad("its parts make no sense")
	}
	return w, nil
}

// outer returns the key that seals the volume's key.
func (w wrapping) outer(s Secret) (*Key, error) {
	var raw []byte
	var err error
	if w.how == byWords {
		raw, err = pbkdf2.Key(sha512.New, string(s.bytes), w.salt, w.count, keyBytes)
	} else {
		raw, err = hkdf.Key(sha256.New, s.bytes, w.salt, "dcfs key file", keyBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	return newKey(raw), nil
}

func (w wrapping) about(u store.UUID) []byte {
	return append(append([]byte{'k'}, u[:]...), w.head()...)
}

// wrap seals raw for who has s.
func wrap(raw []byte, s Secret, u store.UUID) (string, error) {
	w := wrapping{how: s.how, count: s.count, salt: make([]byte, saltBytes)}
	rand.Read(w.salt) // never fails
	k, err := w.outer(s)
	if err != nil {
		return "", err
	}
	w.box = k.appendSealed(nil, raw, w.about(u))
	return w.String(), nil
}

// unwrap is the inverse of wrap.
func unwrap(line string, s Secret, u store.UUID) ([]byte, error) {
	w, err := parseWrapped(line)
	if err != nil {
		return nil, err
	}
	if w.how != s.how {
		return nil, fmt.Errorf("%w: it is opened by a %s, not by a %s", ErrWrongKey, kindName(w.how), kindName(s.how))
	}
	k, err := w.outer(s)
	if err != nil {
		return nil, err
	}
	o := opener{k: k}
	raw, ok := o.open(w.box, 0, w.about(u))
	if !ok {
		return nil, fmt.Errorf("%w: this %s does not open it", ErrWrongKey, kindName(s.how))
	}
	return raw, nil
}

func kindName(how string) string {
	if how == byFile {
		return "key file"
	}
	return how
}

// Make returns a new key for volume u, wrapped for who has s.
func Make(s Secret, u store.UUID) (wrapped string, err error) {
	raw := make([]byte, keyBytes)
	rand.Read(raw) // never fails
	return wrap(raw, s, u)
}

// Unwrap returns the key of volume u. ErrWrongKey if s is not what it was wrapped
// for, ErrCorrupt if it is no wrapped key.
func Unwrap(wrapped string, s Secret, u store.UUID) (*Key, error) {
	raw, err := unwrap(wrapped, s, u)
	if err != nil {
		return nil, err
	}
	return newKey(raw), nil
}

// Rewrap returns the same key, wrapped for another secret.
func Rewrap(wrapped string, old, to Secret, u store.UUID) (string, error) {
	raw, err := unwrap(wrapped, old, u)
	if err != nil {
		return "", err
	}
	return wrap(raw, to, u)
}
