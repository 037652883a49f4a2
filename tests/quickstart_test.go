package tests

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestQuickstartEndsWithThreeCommandsThatWork runs scripts/quickstart as a
// newcomer would, twice, and types what it prints.
func TestQuickstartEndsWithThreeCommandsThatWork(t *testing.T) {
	needFUSE(t)
	dir, home := mountPoint(t), t.TempDir()
	quickstart := func() string {
		t.Helper()
		r := runCommand(t, func(cmd *exec.Cmd) {
			cmd.Env = append(cmd.Env, "HOME="+home, "XDG_DATA_HOME=", "GOCACHE="+goEnv(t, "GOCACHE"), "GOMODCACHE="+goEnv(t, "GOMODCACHE"), "GOFLAGS="+goEnv(t, "GOFLAGS"))
		}, "../scripts/quickstart", dir)
		if r.code != 0 {
			t.Fatalf("exit %d\n%s%s", r.code, r.stdout, r.stderr)
		}
		return r.stdout
	}
	_, commands, ok := strings.Cut(quickstart(), "Three commands to try:\n")
	lines := strings.Split(strings.TrimSpace(commands), "\n")
	if !ok || len(lines) != 3 {
		t.Fatalf("it ends with %q, want three commands", commands)
	}
	// diff(1) finds a difference, which is the point, and exits with 1.
	r := runCommand(t, nil, "bash", "-uc", strings.Join(lines, "\n"))
	for _, want := range []string{"< one", "> two", "two\n"} {
		if !strings.Contains(r.stdout, want) || r.stderr != "" {
			t.Errorf("the three commands print %q and %q, want %q", r.stdout, r.stderr, want)
		}
	}
	wantFile(t, filepath.Join(dir, "file"), "two\n")
	wantFile(t, filepath.Join(dir, ".snapshots/monday/file"), "one\n")
	wantFile(t, filepath.Join(dir, ".forks/try/file"), "three\n")

	if out := quickstart(); !strings.Contains(out, "mounted already") {
		t.Errorf("run again it says %q", out)
	}
	dcfs(t, "umount", dir)
	quickstart()
	wantFile(t, filepath.Join(dir, ".forks/try/file"), "three\n")
}

// goEnv returns a setting of the go command, which a test that changes HOME
// must keep.
func goEnv(t *testing.T, name string) string {
	t.Helper()
	return strings.TrimSpace(shell(t, `go env "$1"`, name))
}
