package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strings"
)

// fileSuffix makes of a secret's variable the one that names a file with the secret, as platforms mount them.
const fileSuffix = "_FILE"

// maxSecretFile bounds a secret's file, so that a wrong path (a device, a log) is a mistake and not a hang.
const maxSecretFile = 64 << 10

// isSecret says whether the variable's value may stand in a file.
func (v Variable) isSecret() bool { return v.kind == reflect.TypeFor[Secret]() }

// readFiles puts into given what the files of the …_FILE variables hold. It returns where each variable's value came
// from, "" where that is wrong.
func readFiles(vars []Variable, given map[string]string) (files map[string]string, mistakes Mistakes) {
	files = map[string]string{}
	for _, v := range vars {
		if !v.isSecret() {
			continue
		}
		for _, name := range append([]string{v.Name}, v.Aliases...) {
			path := strings.TrimSpace(given[name+fileSuffix])
			if path == "" {
				continue
			}
			text, problem := readSecret(path)
			if strings.TrimSpace(given[name]) != "" {
				problem = "is set, and so is " + name + ": only one of them can count"
			}
			if problem != "" {
				files[name] = ""
				mistakes = append(mistakes, Mistake{Variable: name + fileSuffix, Problem: problem, Example: "/run/secrets/" + strings.ToLower(name)})
				continue
			}
			given[name], files[name] = text, path
		}
	}
	return files, mistakes
}

// readSecret returns a file's text without the line's end that editors and echo leave behind. The problem shows the
// path and never the text.
func readSecret(path string) (text, problem string) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Sprintf("cannot read %q: %s", path, reason(err))
	}
	defer f.Close() // nothing was written
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		return "", fmt.Sprintf("%q is not a file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return "", fmt.Sprintf("cannot read %q: %s", path, reason(err))
	}
	if len(b) > maxSecretFile {
		return "", fmt.Sprintf("%q is larger than 64 KiB: it holds more than a secret", path)
	}
	text = strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if strings.TrimSpace(text) == "" {
		return "", fmt.Sprintf("%q is empty", path)
	}
	return text, ""
}

// reason is an error without the operation and the path, which the sentence has already.
func reason(err error) string {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}
