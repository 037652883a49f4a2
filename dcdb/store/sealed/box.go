package sealed

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"

	"dcfs/dcdb/store"
)

const (
	keyBytes    = 32
	randomBytes = 20
	indexBytes  = 4
	choiceBytes = 12 // of the nonce, that choose the key
	tagBytes    = 16
	boxBytes    = randomBytes + tagBytes // that a box has beside what is in it

	// chunkBytes is what each box of an object holds, but the last one: as a
	// read of such a part verifies nothing more.
	chunkBytes = store.BlockBytes
)

// Key seals and opens boxes. It may be used concurrently.
type Key struct {
	block cipher.Block
	mask  [aes.BlockSize]byte // AES-CMAC's first subkey
}

// newKey returns the Key of raw, which has keyBytes bytes.
func newKey(raw []byte) *Key {
	k := &Key{block: mustAES(raw)}
	k.block.Encrypt(k.mask[:], k.mask[:])
	top := k.mask[0] >> 7
	for i := range k.mask {
		k.mask[i] <<= 1
		if i+1 < len(k.mask) {
			k.mask[i] |= k.mask[i+1] >> 7
		}
	}
	k.mask[len(k.mask)-1] ^= top * 0x87
	return k
}

// mustAES can't fail: the key's length is right.
func mustAES(raw []byte) cipher.Block {
	b, err := aes.NewCipher(raw)
	if err != nil {
		panic(err)
	}
	return b
}

// nonce is that of a box, of which the last bytes are the index.
type nonce [randomBytes + indexBytes]byte

func newNonce() (n nonce) {
	rand.Read(n[:randomBytes]) // never fails, see crypto/rand
	return n
}

func (n *nonce) setIndex(i int) { binary.BigEndian.PutUint32(n[randomBytes:], uint32(i)) }

// gcm returns the cipher of the boxes whose nonces begin as n does.
func (k *Key) gcm(n *nonce) cipher.AEAD {
	var raw [keyBytes]byte
	for half := range 2 {
		b := raw[half*aes.BlockSize:][:aes.BlockSize]
		b[1], b[2] = byte(half+1), 'X'
		copy(b[4:], n[:choiceBytes])
		for i := range b {
			b[i] ^= k.mask[i]
		}
		k.block.Encrypt(b, b)
	}
	g, err := cipher.NewGCM(mustAES(raw[:]))
	if err != nil {
		panic(err) // AES has the block size of GCM
	}
	return g
}

// appendBox seals plain into one box and appends it to dst.
func appendBox(dst []byte, g cipher.AEAD, n *nonce, plain, about []byte) []byte {
	dst = append(dst, n[:randomBytes]...)
	return g.Seal(dst, n[choiceBytes:], plain, about)
}

// appendSealed is appendBox with a nonce and index 0, for what is one box.
func (k *Key) appendSealed(dst, plain, about []byte) []byte {
	n := newNonce()
	return appendBox(dst, k.gcm(&n), &n, plain, about)
}

// opener opens boxes, and keeps the cipher for those that follow.
type opener struct {
	k *Key
	g cipher.AEAD
	n nonce
}

// open returns what is in a box, in its place. It reports false if the box is not
// one that this key has sealed, with this index, about the same.
func (o *opener) open(box []byte, index int, about []byte) ([]byte, bool) {
	if len(box) < boxBytes {
		return nil, false
	}
	if o.g == nil || string(o.n[:choiceBytes]) != string(box[:choiceBytes]) {
		copy(o.n[:], box[:choiceBytes])
		o.g = o.k.gcm(&o.n)
	}
	copy(o.n[:], box[:randomBytes])
	o.n.setIndex(index)
	body := box[randomBytes:]
	plain, err := o.g.Open(body[:0], o.n[choiceBytes:], body, about)
	return plain, err == nil
}

// sealedBytes is how long n bytes of an object are when they are sealed.
func sealedBytes(n int) int { return n + chunksOf(n)*boxBytes }

func chunksOf(n int) int { return (n + chunkBytes - 1) / chunkBytes }

// plainBytes is the inverse of sealedBytes. It reports false for what sealedBytes
// never returns.
func plainBytes(n int) (int, bool) {
	const most = chunkBytes + boxBytes
	plain := n - (n+most-1)/most*boxBytes
	return plain, plain > 0 && sealedBytes(plain) == n
}
