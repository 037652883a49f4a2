package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/pflag"
)

// version is the release; the commit comes from the build itself.
const version = "0.1.0"

var versionVerb = &verb{
	name:    "version",
	summary: "Print the version of dcfs",
	flags: func(fl *pflag.FlagSet) func([]string) error {
		asJSON := fl.Bool("json", false, "print JSON")
		return func(args []string) error {
			if err := wantArgs(args); err != nil {
				return err
			}
			v := struct {
				Version string `json:"version"`
				Commit  string `json:"commit,omitempty"`
				Go      string `json:"go"`
				OS      string `json:"os"`
			}{version, buildCommit(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if *asJSON {
				return printJSON(v)
			}
			commit := ""
			if v.Commit != "" {
				commit = " (" + v.Commit + ")"
			}
			fmt.Printf("dcfs %s%s %s %s\n", v.Version, commit, v.Go, v.OS)
			return nil
		}
	},
}

// buildCommit returns the commit that the program was built from, if the
// build recorded it.
func buildCommit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	commit, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+"
		}
	}
	if commit == "" {
		return ""
	}
	return commit[:min(12, len(commit))] + dirty
}
