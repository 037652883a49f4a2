package embedded

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"dcfs/dcdb/store"
)

// BenchmarkThreshold puts objects of a size in groups of 8 MiB, each with a
// barrier, into Badger and into segments.
func BenchmarkThreshold(b *testing.B) {
	for _, size := range []int{4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10} {
		for name, threshold := range map[string]int{"badger": maxObjectThreshold, "segment": 1} {
			b.Run(fmt.Sprintf("%dKiB/%s", size>>10, name), func(b *testing.B) {
				s := must(Create(b.TempDir(), Options{ObjectThreshold: threshold}))(b)
				defer s.Close()
				const groupBytes = 8 << 20
				parts := make([][]byte, groupBytes/size)
				for i := range parts {
					parts[i] = data(byte(i), size)
				}
				b.SetBytes(groupBytes)
				for g := uint64(1); b.Loop(); g++ {
					if _, err := s.Put(ctx, g, store.KindContent, parts); err != nil {
						b.Fatal(err)
					}
					commit(b, s, g, "a", "1")
					barrier(b, s)
				}
			})
		}
	}
}

func BenchmarkCommitAndBarrier(b *testing.B) {
	for _, records := range []int{1, 10, 1000} {
		b.Run(fmt.Sprint(records), func(b *testing.B) {
			s := must(Create(b.TempDir(), Options{}))(b)
			defer s.Close()
			for g := uint64(1); b.Loop(); g++ {
				var kv []string
				for i := range records {
					kv = append(kv, fmt.Sprintf("%d/%d", g, i), string(data(byte(i), 200)))
				}
				commit(b, s, g, kv...)
				barrier(b, s)
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{4 << 10, 128 << 10, 1 << 20} {
		s := must(Create(b.TempDir(), Options{}))(b)
		ids := must(s.Put(ctx, 1, store.KindContent, [][]byte{data(1, size)}))(b)
		p := make([]byte, size)
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				if err := s.Read(ctx, ids[0], store.KindContent, 0, p); err != nil {
					b.Fatal(err)
				}
			}
		})
		s.Close()
	}
}

// BenchmarkMemory reports the anonymous memory of a store with full memtables.
func BenchmarkMemory(b *testing.B) {
	s := must(Create(b.TempDir(), Options{}))(b)
	defer s.Close()
	g, peak := uint64(0), 0.0
	for b.Loop() {
		for range 100 {
			g++
			var kv []string
			for i := range 5000 {
				kv = append(kv, fmt.Sprintf("%d/%d", g*7919%1000003, i), string(data(byte(i), 200)))
			}
			commit(b, s, g, kv...)
			peak = max(peak, anonMiB(b))
		}
	}
	b.ReportMetric(peak, "MiB-anon")
}

func anonMiB(b *testing.B) float64 {
	for line := range strings.Lines(string(must(os.ReadFile("/proc/self/status"))(b))) {
		var kib float64
		if n, _ := fmt.Sscanf(line, "RssAnon: %f kB", &kib); n == 1 {
			return kib / 1024
		}
	}
	return 0
}
