package sealed

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// TestVectors are those of the specification, c2sp.org/XAES-256-GCM.
func TestVectors(t *testing.T) {
	for _, c := range []struct {
		key         byte
		about, want string
	}{
		{1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{3, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		k := newKey(bytes.Repeat([]byte{c.key}, keyBytes))
		n := nonce([]byte("ABCDEFGHIJKLMNOPQRSTUVWX"))
		got := k.gcm(&n).Seal(nil, n[choiceBytes:], []byte("XAES-256-GCM"), []byte(c.about))
		if hex.EncodeToString(got) != c.want {
			t.Errorf("key %d: got %x, want %s", c.key, got, c.want)
		}
	}
}

func TestLengthsAreInverse(t *testing.T) {
	known := map[int]int{}
	for n := 1; n <= 3*chunkBytes; n++ {
		known[sealedBytes(n)] = n
	}
	for n := 0; n <= sealedBytes(3*chunkBytes); n++ {
		want, ok := known[n]
		if got, isSealed := plainBytes(n); isSealed != ok || ok && got != want {
			t.Errorf("plainBytes(%d): got %d, %v, want %d, %v", n, got, isSealed, want, ok)
		}
	}
}

// TestNoRandomTwice looks at what chooses keys and nonces.
func TestNoRandomTwice(t *testing.T) {
	k := newKey(make([]byte, keyBytes))
	seen := map[string]bool{}
	for range 10_000 {
		box := k.appendSealed(nil, []byte("the same"), []byte("place"))
		if seen[string(box[:choiceBytes])] || seen[string(box[choiceBytes:randomBytes])] {
			t.Fatal("random bytes come again")
		}
		seen[string(box[:choiceBytes])], seen[string(box[choiceBytes:randomBytes])] = true, true
	}
}
