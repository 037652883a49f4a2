//go:build race

package tests

// raceEnabled: the tests were built with the race detector.
const raceEnabled = true
