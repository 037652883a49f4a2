// Package spill sorts rows of bytes, all of one size, that need not fit into
// memory: what does not is kept in a temporary file. A check of a volume uses
// it to bring together what it found in different places.
package spill

import (
	"bytes"
	"container/heap"
	"fmt"
	"io"
	"os"
	"sort"
)

// Options say how much memory a Sorter may take, and where the rest goes.
type Options struct {
	Bytes int    // of memory; default 64 MiB
	Dir   string // of the temporary file; default that of os.TempDir
}

// defaultBytes is the default of Options.Bytes.
const defaultBytes = 64 << 20

// Share returns options for one of n Sorters that are in use at a time.
func (o Options) Share(n int) Options {
	if o.Bytes == 0 {
		o.Bytes = defaultBytes
	}
	o.Bytes /= n
	return o
}

// Sorter gathers rows and then gives them back in the order of their bytes. It
// is not safe for concurrent use.
type Sorter struct {
	row  int      // bytes
	max  int      // bytes of rows
	dir  string   // of file
	rows []byte   // not yet in the file
	file *os.File // nil: not needed so far
	runs []int64  // where each sorted run in the file ends
}

// New returns a Sorter of rows of rowBytes bytes.
func New(rowBytes int, o Options) *Sorter {
	o = o.Share(1)
	return &Sorter{row: rowBytes, max: max(o.Bytes/rowBytes, 1) * rowBytes, dir: o.Dir}
}

// Add adds a copy of a row.
func (s *Sorter) Add(row []byte) error {
	if len(row) != s.row {
		panic(fmt.Sprintf("spill: a row of %d bytes among rows of %d", len(row), s.row))
	}
	if len(s.rows)+s.row > s.max {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.rows = append(s.rows, row...)
	return nil
}

// spill writes the rows in memory to the file, as a run.
func (s *Sorter) spill() error {
	sort.Sort(&inMemory{s.rows, s.row, make([]byte, s.row)})
	if s.file == nil {
		f, err := os.CreateTemp(s.dir, "dcfs-*.tmp")
		if err != nil {
			return fmt.Errorf("temporary file: %w", err)
		}
		s.file = f
		// Without a name it goes with us, however we end.
		if err := os.Remove(f.Name()); err != nil {
			return fmt.Errorf("temporary file: %w", err)
		}
	}
	end := s.end()
	if _, err := s.file.WriteAt(s.rows, end); err != nil {
		return fmt.Errorf("temporary file: %w", err)
	}
	s.runs = append(s.runs, end+int64(len(s.rows)))
	s.rows = s.rows[:0]
	return nil
}

func (s *Sorter) end() int64 {
	if len(s.runs) == 0 {
		return 0
	}
	return s.runs[len(s.runs)-1]
}

// Spilled is how many bytes are in the temporary file.
func (s *Sorter) Spilled() int64 { return s.end() }

// Sort returns all rows in order. No more can be added.
func (s *Sorter) Sort() (*Rows, error) {
	if s.file == nil {
		sort.Sort(&inMemory{s.rows, s.row, make([]byte, s.row)})
		r := &run{row: s.row, buf: s.rows}
		return &Rows{runs: []*run{r}[:min(1, len(s.rows))]}, nil
	}
	if err := s.spill(); err != nil {
		return nil, err
	}
	s.rows = nil
	// Each run has a part of the memory to be read into.
	const least = 4 << 10
	part := max(s.max/len(s.runs), least) / s.row * s.row
	r := &Rows{}
	at := int64(0)
	for _, end := range s.runs {
		u := &run{row: s.row, file: io.NewSectionReader(s.file, at, end-at), part: max(part, s.row)}
		at = end
		if err := u.fill(); err != nil {
			return nil, err
		}
		if len(u.buf) > 0 {
			r.runs = append(r.runs, u)
		}
	}
	heap.Init(r)
	return r, nil
}

// Close gives memory and file back. The Rows must not be used any more.
func (s *Sorter) Close() {
	s.rows = nil
	if s.file != nil {
		s.file.Close() // it has no name any more: nothing of it is kept
		s.file = nil
	}
}

// inMemory sorts rows in place.
type inMemory struct {
	b   []byte
	row int
	tmp []byte
}

func (m *inMemory) at(i int) []byte    { return m.b[i*m.row : (i+1)*m.row] }
func (m *inMemory) Len() int           { return len(m.b) / m.row }
func (m *inMemory) Less(i, j int) bool { return bytes.Compare(m.at(i), m.at(j)) < 0 }
func (m *inMemory) Swap(i, j int) {
	copy(m.tmp, m.at(i))
	copy(m.at(i), m.at(j))
	copy(m.at(j), m.tmp)
}

// Rows are a Sorter's rows, in order. Runs that have more are a heap.
type Rows struct {
	runs []*run
	last []byte
}

// run is a part of the rows that is in order.
type run struct {
	row  int
	buf  []byte    // rows that were read
	at   int       // of the next one in buf
	file io.Reader // what follows; nil: nothing
	part int       // bytes to be read at a time
	mem  []byte
}

func (u *run) head() []byte { return u.buf[u.at : u.at+u.row] }

// fill reads the next rows, if all are used. buf is empty after the last.
func (u *run) fill() error {
	if u.at < len(u.buf) {
		return nil
	}
	u.buf, u.at = nil, 0
	if u.file == nil {
		return nil
	}
	if u.mem == nil {
		u.mem = make([]byte, u.part)
	}
	n, err := io.ReadFull(u.file, u.mem)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return fmt.Errorf("temporary file: %w", err)
	}
	if n%u.row != 0 {
		return fmt.Errorf("temporary file: %w", io.ErrUnexpectedEOF)
	}
	u.buf = u.mem[:n]
	return nil
}

// Next returns the next row, nil at the end. It is good until the next call.
func (r *Rows) Next() ([]byte, error) {
	if len(r.runs) == 0 {
		return nil, nil
	}
	u := r.runs[0]
	r.last = append(r.last[:0], u.head()...)
	u.at += u.row
	if err := u.fill(); err != nil {
		return nil, err
	}
	if len(u.buf) == 0 {
		heap.Pop(r)
	} else {
		heap.Fix(r, 0)
	}
	return r.last, nil
}

// Len is for package heap.
func (r *Rows) Len() int { return len(r.runs) }

// Less is for package heap.
func (r *Rows) Less(i, j int) bool { return bytes.Compare(r.runs[i].head(), r.runs[j].head()) < 0 }

// Swap is for package heap.
func (r *Rows) Swap(i, j int) { r.runs[i], r.runs[j] = r.runs[j], r.runs[i] }

// Push is for package heap. Rows only get fewer.
func (r *Rows) Push(any) { panic("spill: push") }

// Pop is for package heap.
func (r *Rows) Pop() any {
	u := r.runs[len(r.runs)-1]
	r.runs = r.runs[:len(r.runs)-1]
	return u
}
