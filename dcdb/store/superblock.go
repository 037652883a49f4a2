package store

import (
	"crypto/rand"
	"encoding/hex"
	"time"
)

// FormatVersion is the version of everything that a volume keeps. Version 1
// is the first.
const FormatVersion = 1

// Superblock is what a store says of itself before anything else is read.
type Superblock struct {
	Version int       // FormatVersion
	UUID    UUID      // of the volume; part of every checksum's identity
	Created time.Time // UTC

	// Features as ext4 has them. An unknown one in Compat may be ignored, in
	// ROCompat allows reading only, in Incompat refuses.
	Compat, ROCompat, Incompat []string

	Options map[string]string // what was chosen when the volume was made

	// Key is the key that seals the volume, wrapped (package sealed), "" if it
	// is not sealed. The store below knows nothing of it.
	Key string
}

// UUID identifies a volume.
type UUID [16]byte

// NewUUID returns a random UUID, of version 4 (RFC 9562).
func NewUUID() UUID {
	var u UUID
	rand.Read(u[:]) // never fails, see crypto/rand
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

func (u UUID) String() string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
