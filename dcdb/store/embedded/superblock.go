package embedded

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dcfs/dcdb/store"
)

// Names in the store's directory.
const (
	superName    = "superblock"
	lockName     = "lock"
	witnessName  = "witness"
	ballastName  = "ballast"
	recordsName  = "records"
	segmentsName = "segments"
)

// Sentinels of opening a directory that holds no volume this version serves.
var (
	// ErrNoVolume: the directory is missing or empty, or the making of a
	// volume in it was interrupted; Create can make one.
	ErrNoVolume = errors.New("no dcfs volume there")
	// ErrForeign: the directory holds something else.
	ErrForeign = errors.New("not a dcfs volume: the directory is not empty and has no superblock")
	// ErrUnknownFormat: the volume was made by a later version.
	ErrUnknownFormat = errors.New("made by a version of dcfs that this one doesn't know")
	// ErrSealed: the volume has a key, and Options.Unlock is not set.
	ErrSealed = errors.New("the volume is sealed")
)

// The features this version knows, of each kind.
var knownROCompat, knownIncompat = []string(nil), []string{featureSealed}

// featureSealed: the volume has a key. Who does not know of it would take every
// record for damaged.
const featureSealed = "sealed"

// superFile is the file's JSON. Checksum is the CRC-32C, in hexadecimal, of
// Volume as compact JSON, so people may look at the file and editors may
// reformat it, but not change it.
type superFile struct {
	Volume   json.RawMessage `json:"volume"`
	Checksum string          `json:"crc32c"`
}

type superVolume struct {
	Format   string            `json:"format"`
	Version  int               `json:"version"`
	UUID     string            `json:"uuid"`
	Created  time.Time         `json:"created"`
	Compat   []string          `json:"compat,omitempty"`
	ROCompat []string          `json:"ro_compat,omitempty"`
	Incompat []string          `json:"incompat,omitempty"`
	Options  map[string]string `json:"options,omitempty"`
	Key      string            `json:"key,omitempty"`
}

const superFormat = "dcfs"

func encodeSuper(sb store.Superblock) ([]byte, error) {
	v, err := json.Marshal(superVolume{
		superFormat, sb.Version, sb.UUID.String(), sb.Created,
		sb.Compat, sb.ROCompat, sb.Incompat, sb.Options, sb.Key,
	})
	if err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(superFile{v, fmt.Sprintf("%08x", store.Checksum(v))}, "", "  ")
	return append(b, '\n'), err
}

func decodeSuper(b []byte) (store.Superblock, error) {
	var sb store.Superblock
	var f superFile
	if err := json.Unmarshal(b, &f); err != nil {
		return sb, fmt.Errorf("%w: %v", store.ErrCorrupt, err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, f.Volume); err != nil {
		return sb, fmt.Errorf("%w: %v", store.ErrCorrupt, err)
	}
	if sum := fmt.Sprintf("%08x", store.Checksum(compact.Bytes())); sum != f.Checksum {
		return sb, fmt.Errorf("%w: checksum %s, not %q", store.ErrCorrupt, sum, f.Checksum)
	}
	var v superVolume
	if err := json.Unmarshal(f.Volume, &v); err != nil {
		return sb, fmt.Errorf("%w: %v", store.ErrCorrupt, err)
	}
	if v.Format != superFormat {
		return sb, fmt.Errorf("%w: format %q", ErrUnknownFormat, v.Format)
	}
	if v.Version != store.FormatVersion {
		return sb, fmt.Errorf("%w: format version %d, this one knows %d", ErrUnknownFormat, v.Version, store.FormatVersion)
	}
	if unknown := without(v.Incompat, knownIncompat); len(unknown) > 0 {
		return sb, fmt.Errorf("%w: feature %s", ErrUnknownFormat, strings.Join(unknown, ", "))
	}
	if unknown := without(v.ROCompat, knownROCompat); len(unknown) > 0 {
		return sb, fmt.Errorf("%w: feature %s must not be written to", ErrUnknownFormat, strings.Join(unknown, ", "))
	}
	uuid, err := hex.DecodeString(strings.ReplaceAll(v.UUID, "-", ""))
	if err != nil || len(uuid) != len(sb.UUID) {
		return sb, fmt.Errorf("%w: UUID %q", store.ErrCorrupt, v.UUID)
	}
	sb = store.Superblock{
		Version: v.Version, Created: v.Created,
		Compat: v.Compat, ROCompat: v.ROCompat, Incompat: v.Incompat, Options: v.Options,
	}
	copy(sb.UUID[:], uuid)
	if slices.Contains(v.Incompat, featureSealed) != (v.Key != "") {
		return sb, fmt.Errorf("%w: feature %s with key %q", store.ErrCorrupt, featureSealed, v.Key)
	}
	sb.Key = v.Key
	return sb, nil
}

func without(have, known []string) (unknown []string) {
	for _, f := range have {
		if !slices.Contains(known, f) {
			unknown = append(unknown, f)
		}
	}
	return unknown
}

// readSuper reads the superblock of the store in dir. Without one it tells
// apart what could become a volume, ErrNoVolume, from what must not be
// touched, ErrForeign.
func readSuper(dir string) (store.Superblock, error) {
	name := filepath.Join(dir, superName)
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return store.Superblock{}, fmt.Errorf("%s: %w", dir, missingSuper(dir))
	}
	if err != nil {
		return store.Superblock{}, err
	}
	sb, err := decodeSuper(b)
	if err != nil {
		return sb, fmt.Errorf("%s: %w", name, err)
	}
	return sb, nil
}

// missingSuper judges a directory without a superblock. What Create makes
// before it writes the superblock is a volume begun, not a foreign directory.
func missingSuper(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNoVolume
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch e.Name() {
		case lockName, witnessName, superName + ".new", "lost+found":
			continue
		case recordsName, segmentsName:
			if sub, err := os.ReadDir(filepath.Join(dir, e.Name())); err != nil || len(sub) > 0 {
				return ErrForeign
			}
		default:
			return ErrForeign
		}
	}
	return ErrNoVolume
}

// writeSuper makes the superblock appear whole, or not at all.
func writeSuper(dir string, sb store.Superblock) error {
	b, err := encodeSuper(sb)
	if err != nil {
		return err
	}
	return writeFileAtomic(filepath.Join(dir, superName), b)
}

// writeFileAtomic replaces a file, durably.
func writeFileAtomic(name string, b []byte) error {
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err == nil {
		err = syncDir(filepath.Dir(name))
	}
	return err
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
