// Package targets turns what a user names on the command line (pods, a label
// selector, everything) into pods, so that every verb does it alike.
package targets
