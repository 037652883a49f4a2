package snap

import (
	"encoding/hex"
	"fmt"
	"testing"
	"time"
)

// TestStoredRecordsStayReadable has the bytes of records as they were first
// written: they are read for ever, and nothing else is written for the same.
func TestStoredRecordsStayReadable(t *testing.T) {
	at := time.Date(2026, 11, 25, 21, 0, 0, 5, time.UTC)
	for _, c := range []struct {
		what, stored string
		again        func(val []byte) ([]byte, string, error)
		want         string
	}{
		{"fork", "01070364808080808020c80101010985c0dcd2e1add9f5180000ed03e807e807c00303747279", func(val []byte) ([]byte, string, error) {
			f, parent, err := decodeFork(5, val)
			if err != nil {
				return nil, "", err
			}
			f.parent = &fork{id: parent}
			return f.encode(), fmt.Sprint(parent, f.origin, f.first, f.counter, f.reserved, f.live, f.place, f.number, f.created.Equal(at), f.doors, f.name), nil
		}, "7 3 100 1099511627776 200 true 1 9 true [{0 0 493} {1000 1000 448}]try"},
		{"snapshot", "010985c0dcd2e1add9f518066d6f6e646179", func(val []byte) ([]byte, string, error) {
			sn, err := decodeSnapshot(&fork{}, 5, val)
			if err != nil {
				return nil, "", err
			}
			return sn.encode(), fmt.Sprint(sn.number, sn.created.Equal(at), sn.name), nil
		}, "9 truemonday"},
		{"hold", "0102066261636b7570046b656570", func(val []byte) ([]byte, string, error) {
			tags, err := decodeTags(val)
			return encodeTags(tags), fmt.Sprint(tags), err
		}, "[backup keep]"},
		{"expiry", "0185c0dcd2e1add9f518", func(val []byte) ([]byte, string, error) {
			e, err := decodeExpiry(val)
			return encodeExpiry(e), fmt.Sprint(e.Equal(at)), err
		}, "true"},
		{"policy", "011807040c0a", func(val []byte) ([]byte, string, error) {
			p, err := decodePolicy(val)
			return p.encode(), p.String(), err
		}, "24h7d4w12M10y"},
	} {
		val, err := hex.DecodeString(c.stored)
		if err != nil {
			t.Fatal(err)
		}
		again, got, err := c.again(val)
		if err != nil || got != c.want {
			t.Errorf("%s: %s, %v, want %s", c.what, got, err, c.want)
		}
		if hex.EncodeToString(again) != c.stored {
			t.Errorf("%s: %x is written, it was %s", c.what, again, c.stored)
		}
	}
}
