package sealed

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"dcfs/dcdb/store"
)

func words(t testing.TB, w string) Secret {
	t.Helper()
	s, err := Passphrase(w)
	if err != nil {
		t.Fatal(err)
	}
	s.count = 1000 // for the test's time
	return s
}

func file(t testing.TB, c byte) Secret {
	t.Helper()
	s, err := KeyFile(bytes.Repeat([]byte{c}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// same reports whether two keys seal alike.
func same(a, b *Key) bool {
	o := opener{k: b}
	_, ok := o.open(a.appendSealed(nil, []byte("x"), nil), 0, nil)
	return ok
}

func TestWrappedKeysOpenForTheirSecretOnly(t *testing.T) {
	u := store.NewUUID()
	secrets := []Secret{words(t, "correct horse"), words(t, "correct horse "), file(t, 1), file(t, 2)}
	for i, s := range secrets {
		line, err := Make(s, u)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line, "horse") || strings.ContainsAny(line, " \n\"") {
			t.Errorf("wrapped key %q", line)
		}
		for j, other := range secrets {
			_, err := Unwrap(line, other, u)
			if i == j && err != nil {
				t.Errorf("secret %d does not open its own: %v", i, err)
			} else if i != j && !errors.Is(err, ErrWrongKey) {
				t.Errorf("secret %d and the key of %d: got %v, want ErrWrongKey", j, i, err)
			}
		}
		if _, err := Unwrap(line, s, store.NewUUID()); !errors.Is(err, ErrWrongKey) {
			t.Errorf("key of another volume: got %v, want ErrWrongKey", err)
		}
	}
}

func TestRewrapKeepsTheKey(t *testing.T) {
	u := store.NewUUID()
	old, to := words(t, "old"), file(t, 9)
	line, err := Make(old, u)
	if err != nil {
		t.Fatal(err)
	}
	first, err := Unwrap(line, old, u)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Rewrap(line, to, to, u); !errors.Is(err, ErrWrongKey) {
		t.Errorf("Rewrap with the wrong key: got %v, want ErrWrongKey", err)
	}
	if line, err = Rewrap(line, old, to, u); err != nil {
		t.Fatal(err)
	}
	if _, err := Unwrap(line, old, u); !errors.Is(err, ErrWrongKey) {
		t.Errorf("the old secret: got %v, want ErrWrongKey", err)
	}
	second, err := Unwrap(line, to, u)
	if err != nil {
		t.Fatal(err)
	}
	if !same(first, second) {
		t.Error("the key is another one")
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	s := words(t, "hush hush")
	for _, f := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(f, s); strings.Contains(got, "hush") || strings.Contains(got, "68 75") || strings.Contains(got, "104 117") {
			t.Errorf("%s prints %s", f, got)
		}
	}
	d, err := DecodeSecret(s.Encode())
	if err != nil || d.how != s.how || !bytes.Equal(d.bytes, s.bytes) {
		t.Errorf("DecodeSecret: %v", err)
	}
}

func TestWhatIsNoSecretIsRefused(t *testing.T) {
	_, empty := Passphrase("")
	_, short := KeyFile(make([]byte, 31))
	_, long := KeyFile(make([]byte, MaxKeyFile+1))
	_, unknown := DecodeSecret([]byte("card$1"))
	for i, err := range []error{empty, short, long, unknown} {
		if !errors.Is(err, ErrBadSecret) {
			t.Errorf("%d: got %v, want ErrBadSecret", i, err)
		}
	}
}

// sampleWrapped is from the first version, and must open for ever. The volume's key
// in it is 32 bytes of 5.
var sampleWrapped = map[string]Secret{
	"1$passphrase$1000$hb7YqMKPmiuofew0P4xjlA$wY0ym2kVvXGsVh2+Xb3vCoFRdjcLXitVSeloCWRIgmxBGIotmkSHOYrnH0TfMWP5FlSERdilZH1rotLmG0Yk2P+vc+I": {byWords, []byte("a phrase"), 0},
	"1$file$nkxMx/A1LX20j3TPj9jprg$hpq7uTzFsSVTwvSb/Dz2MJvcGVHsVoH/hOY5mvqBYW0Iqe0RsA7HLH6C8ECNSyUcO/H87bufz0CjzeLi2qXXZm+HNT0":            {byFile, []byte("0123456789abcdef0123456789abcdef"), 0},
}

func TestSampleOpens(t *testing.T) {
	u := store.UUID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	for line, s := range sampleWrapped {
		k, err := Unwrap(line, s, u)
		if err != nil {
			t.Errorf("%s: %v", line, err)
		} else if !same(k, newKey(bytes.Repeat([]byte{5}, keyBytes))) {
			t.Errorf("%s: another key", line)
		}
	}
}

func FuzzWrapped(f *testing.F) {
	for line := range sampleWrapped {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		w, err := parseWrapped(line)
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("got %v, want ErrCorrupt", err)
			}
			return
		}
		if w.String() != line || w.count > maxStretch {
			t.Errorf("%q reads as %q", line, w)
		}
	})
}
