package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"dcfs/dcdb/store"
	"dcfs/dcdb/store/embedded"
	"dcfs/dcdb/store/sealed"
)

// A sealed volume is opened by a key file or a passphrase. Either comes by
// --key-file or by the environment, never by an argument, and goes to a server
// that is started by a pipe: what others can see of a process has none of it.
const (
	keyFileEnv       = "DCFS_KEY_FILE"
	passphraseEnv    = "DCFS_PASSPHRASE"
	newKeyFileEnv    = "DCFS_NEW_KEY_FILE"
	newPassphraseEnv = "DCFS_NEW_PASSPHRASE"
)

// keySource is where a secret comes from.
type keySource struct {
	file string // "": the environment may name one
	flag string // that names file
	env  string // that names a file
	word string // that has a passphrase
	pipe int    // where another process has put it; -1: nowhere

	once   sync.Once // a pipe is read once
	secret *sealed.Secret
	from   string
	err    error
}

// userKey is what this process opens sealed volumes with: the flag concerns most
// verbs alike.
var userKey = keySource{flag: "--key-file", env: keyFileEnv, word: passphraseEnv, pipe: -1}

// addKeyFile is the flag of a verb that may open a store.
func addKeyFile(fl *pflag.FlagSet) {
	fl.StringVar(&userKey.file, "key-file", "", "file with the key of a sealed volume (or "+keyFileEnv+", or "+passphraseEnv+", in the environment); not needed while it is mounted")
}

// read returns the secret, nil if there is none, and what named it.
func (k *keySource) read() (*sealed.Secret, string, error) {
	k.once.Do(func() { k.secret, k.from, k.err = k.readOnce() })
	return k.secret, k.from, k.err
}

func (k *keySource) readOnce() (*sealed.Secret, string, error) {
	if k.pipe >= 0 {
		f := os.NewFile(uintptr(k.pipe), "key")
		defer f.Close()
		b, err := io.ReadAll(f)
		if err != nil {
			return nil, "", fmt.Errorf("key: %w", err)
		}
		from, rest, _ := strings.Cut(string(b), "\n")
		s, err := sealed.DecodeSecret([]byte(rest))
		return &s, from, err
	}
	file, from := k.file, k.flag
	if file == "" {
		file, from = os.Getenv(k.env), k.env
	}
	words, hasWords := os.LookupEnv(k.word)
	switch {
	case file != "" && k.file == "" && hasWords:
		return nil, "", coded(codeInvalid, "both %s and %s are set: leave out one of them", k.env, k.word)
	case file != "":
		s, err := readKeyFile(file)
		return &s, from, err
	case hasWords:
		s, err := sealed.Passphrase(words)
		if err != nil {
			err = coded(codeInvalid, "%s: %v", k.word, err)
		}
		return &s, k.word, err
	}
	return nil, "", nil
}

func readKeyFile(name string) (sealed.Secret, error) {
	f, err := os.Open(name)
	if err != nil {
		return sealed.Secret{}, fmt.Errorf("key file %s: %w", name, plainErr(err))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, sealed.MaxKeyFile+1))
	if err != nil {
		return sealed.Secret{}, fmt.Errorf("key file %s: %w", name, plainErr(err))
	}
	s, err := sealed.KeyFile(b)
	if err != nil {
		return s, coded(codeInvalid, "key file %s: %v", name, err)
	}
	return s, nil
}

// pass returns the end of a pipe from which another process can read the secret,
// nil if there is none.
func (k *keySource) pass() (*os.File, error) {
	s, from, err := k.read()
	if err != nil || s == nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	// It fits into the pipe, so nobody waits for a reader.
	if _, err := w.Write(append([]byte(from+"\n"), s.Encode()...)); err != nil {
		r.Close()
		return nil, fmt.Errorf("key: %w", err)
	}
	return r, nil
}

// withoutKeys is an environment for a process that gets its key otherwise.
func withoutKeys(env []string) []string {
	var out []string
	for _, e := range env {
		switch name, _, _ := strings.Cut(e, "="); name {
		case keyFileEnv, passphraseEnv, newKeyFileEnv, newPassphraseEnv:
		default:
			out = append(out, e)
		}
	}
	return out
}

// opening is what opens one volume, sealed or not.
type opening struct {
	secret *sealed.Secret
	from   string
	key    *sealed.Key // once the superblock is known
}

// options completes o. A volume that is made is sealed if there is a secret.
func (k *opening) options(o embedded.Options) embedded.Options {
	o.Unlock = k.unlock
	if k.secret != nil {
		o.NewKey = func(u store.UUID) (string, error) { return sealed.Make(*k.secret, u) }
	}
	return o
}

// unlock judges the superblock of a volume, which nothing was opened of yet.
func (k *opening) unlock(sb store.Superblock) (err error) {
	switch {
	case k.secret == nil && sb.Key == "":
		return nil
	case k.secret == nil:
		return coded(codeForbidden, "the volume is sealed, and no key was given: name its key file with --key-file or %s, or set %s", keyFileEnv, passphraseEnv)
	case sb.Key == "":
		return coded(codeInvalid, "the volume is not sealed, but %s gives a key for it: leave that out", k.from)
	}
	if k.key, err = sealed.Unwrap(sb.Key, *k.secret, sb.UUID); err != nil {
		return wrongKey(err, k.from)
	}
	// A crash must not leave the key in a file.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("no core files: %w", err)
	}
	return nil
}

func wrongKey(err error, from string) error {
	if errors.Is(err, sealed.ErrWrongKey) {
		return coded(codeForbidden, "%v (%s)", err, from)
	}
	return err
}

// seal returns the store to be used: s, or one that seals what goes there.
func (k *opening) seal(s store.Store) store.Store {
	if k.key == nil {
		return s
	}
	return sealed.New(s, k.key)
}

var keyChangeVerb = &verb{
	name: "key change", args: "STORE", opens: true,
	summary: "Change the key file or passphrase of a sealed volume",
	long: `
What opens the volume now comes from --key-file, DCFS_KEY_FILE or DCFS_PASSPHRASE,
what is to open it from --new-key-file, DCFS_NEW_KEY_FILE or DCFS_NEW_PASSPHRASE.
The volume must not be mounted. Only one line of the store's superblock changes, at
once: data stays sealed by the same key as before. So whoever has a copy of the
old superblock and the old passphrase can still read the volume: if both may be
known, copy the files to a new one.

Example:
  dcfs key change --key-file old.key --new-key-file new.key ~/volume`,
	flags: func(fl *pflag.FlagSet) func([]string) error {
		to := &keySource{flag: "--new-key-file", env: newKeyFileEnv, word: newPassphraseEnv, pipe: -1}
		fl.StringVar(&to.file, "new-key-file", "", "file with the new key (or "+newKeyFileEnv+", or "+newPassphraseEnv+", in the environment)")
		return func(args []string) error {
			if err := wantArgs(args, "STORE"); err != nil {
				return err
			}
			t, err := parseTarget(args[0])
			if err != nil {
				return err
			}
			return changeKey(t, to)
		}
	},
}

// changeKey has another secret open a volume that nobody serves.
func changeKey(t target, to *keySource) error {
	if err := unserved(t); err != nil {
		return err
	}
	old, from, err := userKey.read()
	if err != nil {
		return err
	}
	next, _, err := to.read()
	if err != nil {
		return err
	}
	switch {
	case old == nil:
		return &usageError{text: fmt.Sprintf("what opens the volume now is missing: name its key file with --key-file or %s, or set %s", keyFileEnv, passphraseEnv)}
	case next == nil:
		return &usageError{text: fmt.Sprintf("what is to open the volume is missing: name a key file with --new-key-file or %s, or set %s", newKeyFileEnv, newPassphraseEnv)}
	}
	err = embedded.ChangeKey(t.Store, lockWait, func(sb store.Superblock) (string, error) {
		if sb.Key == "" {
			return "", coded(codeInvalid, "the volume is not sealed: only a new volume can be")
		}
		line, err := sealed.Rewrap(sb.Key, *old, *next, sb.UUID)
		return line, wrongKey(err, from)
	})
	if err != nil {
		return openError(t.Store, err)
	}
	return nil
}
