package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/secure-systems-lab/go-securesystemslib/signerverifier"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	// provenanceFile is the signed statement in a release's directory.
	provenanceFile = "provenance.intoto.jsonl"
	// payloadType and predicateType are what https://slsa.dev/spec/v1.0/provenance asks for.
	payloadType   = "application/vnd.in-toto+json"
	predicateType = "https://slsa.dev/provenance/v1"
	// buildType says how to repeat the build.
	buildType = "https://" + module + "/blob/main/CONTRIBUTING.md#releases"
)

// attest signs how the release in o.output and the images, NAME=ARCHIVE each, were made: from the tag of
// the version, by builder. Equal inputs give equal statements.
func (o options) attest(ctx context.Context, keyFile, builder string, images []string) error {
	if builder == "" {
		return errors.New("--builder is needed: a URI of who vouches for the machine that has built the release")
	}
	if err := o.checkTag(ctx); err != nil {
		return err
	}
	commit, err := git(ctx, o.root, "rev-parse", "HEAD")
	if err != nil {
		return err
	}
	toolchain, err := o.toolchain()
	if err != nil {
		return err
	}
	sums, err := releasedFiles(o.output)
	if err != nil {
		return err
	}
	for _, image := range images {
		name, archive, ok := strings.Cut(image, "=")
		if !ok {
			return fmt.Errorf("image %q is not NAME=ARCHIVE", image)
		}
		if sums[name], err = imageDigest(archive); err != nil {
			return fmt.Errorf("%s: %w", archive, err)
		}
	}
	payload, err := statement(sums, &slsa.Provenance{
		BuildDefinition: &slsa.BuildDefinition{
			BuildType:          buildType,
			ExternalParameters: &structpb.Struct{Fields: map[string]*structpb.Value{"version": structpb.NewStringValue(o.version)}},
			ResolvedDependencies: []*intoto.ResourceDescriptor{
				{Uri: "git+https://" + module + "@refs/tags/" + o.version, Digest: map[string]string{"gitCommit": commit}},
				{Name: toolchain, Uri: "https://go.dev/dl/"},
			},
		},
		RunDetails: &slsa.RunDetails{Builder: &slsa.Builder{Id: builder}},
	})
	if err != nil {
		return err
	}
	key, err := loadKey(keyFile)
	if err != nil {
		return err
	}
	signer, err := dsse.NewEnvelopeSigner(key)
	if err != nil {
		return err
	}
	envelope, err := signer.SignPayload(ctx, payloadType, payload)
	if err != nil {
		return fmt.Errorf("signing: %w", err)
	}
	text, err := json.Marshal(envelope)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.output, provenanceFile), append(text, '\n'), 0o644)
}

// statement returns an in-toto statement about files and images by their SHA-256.
func statement(sums map[string]string, provenance *slsa.Provenance) ([]byte, error) {
	text, err := protojson.Marshal(provenance)
	if err != nil {
		return nil, err
	}
	predicate := &structpb.Struct{}
	if err := protojson.Unmarshal(text, predicate); err != nil {
		return nil, err
	}
	s := &intoto.Statement{Type: intoto.StatementTypeUri, PredicateType: predicateType, Predicate: predicate}
	for _, name := range sortedKeys(sums) {
		s.Subject = append(s.Subject, &intoto.ResourceDescriptor{Name: name, Digest: map[string]string{"sha256": sums[name]}})
	}
	if err := errors.Join(provenance.Validate(), s.Validate()); err != nil {
		return nil, err
	}
	if text, err = protojson.Marshal(s); err != nil {
		return nil, err
	}
	// protojson's spaces differ between programs.
	var compact bytes.Buffer
	err = json.Compact(&compact, text)
	return compact.Bytes(), err
}

// verifyProvenance fails unless dir has a statement that key has signed, about every file of the release
// in dir as it is there.
func verifyProvenance(ctx context.Context, dir, keyFile string) error {
	text, err := os.ReadFile(filepath.Join(dir, provenanceFile))
	if err != nil {
		return err
	}
	var envelope dsse.Envelope
	if err := json.Unmarshal(text, &envelope); err != nil {
		return fmt.Errorf("reading %s: %w", provenanceFile, err)
	}
	key, err := loadKey(keyFile)
	if err != nil {
		return err
	}
	verifier, err := dsse.NewEnvelopeVerifier(key)
	if err != nil {
		return err
	}
	_, payload, err := verifier.VerifyAndDecode(ctx, &envelope)
	if err != nil {
		return fmt.Errorf("the signature of %s: %w", provenanceFile, err)
	}
	s := &intoto.Statement{}
	if err := protojson.Unmarshal(payload, s); err != nil {
		return fmt.Errorf("reading the statement: %w", err)
	}
	if err := s.Validate(); err != nil {
		return fmt.Errorf("the statement: %w", err)
	}
	if envelope.PayloadType != payloadType || s.PredicateType != predicateType {
		return fmt.Errorf("%s is a statement of type %q in a payload of type %q", provenanceFile, s.PredicateType, envelope.PayloadType)
	}
	stated := map[string]string{}
	for _, subject := range s.Subject {
		stated[subject.Name] = subject.Digest["sha256"]
	}
	sums, err := releasedFiles(dir)
	if err != nil {
		return err
	}
	for _, name := range sortedKeys(sums) {
		if stated[name] != sums[name] {
			return fmt.Errorf("%s has %s, and the statement says %q", name, sums[name], stated[name])
		}
	}
	fmt.Printf("%s vouches for the %d files of the release\n", provenanceFile, len(sums))
	return nil
}

// releasedFiles returns the checksums of the files that checksums.txt in dir names. They must be as it says.
func releasedFiles(dir string) (map[string]string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "checksums.txt"))
	if err != nil {
		return nil, err
	}
	sums := map[string]string{}
	for line := range strings.Lines(string(text)) {
		want, name, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if !ok || name != filepath.Base(name) {
			return nil, fmt.Errorf("checksums.txt has the line %q", line)
		}
		if sums[name], err = checksum(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
		if sums[name] != want {
			return nil, fmt.Errorf("%s has %s, and checksums.txt says %s", name, sums[name], want)
		}
	}
	if len(sums) == 0 {
		return nil, errors.New("checksums.txt is empty")
	}
	return sums, nil
}

// imageDigest returns the SHA-256 by which registries know the image in an archive of build/image.
func imageDigest(archive string) (string, error) {
	f, err := os.Open(archive)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return "", errors.New("there is no index.json")
		}
		if err != nil {
			return "", err
		}
		if header.Name != "index.json" {
			continue
		}
		var index struct{ Manifests []struct{ Digest string } }
		if err := json.NewDecoder(r).Decode(&index); err != nil {
			return "", fmt.Errorf("reading index.json: %w", err)
		}
		if len(index.Manifests) != 1 {
			return "", fmt.Errorf("it holds %d images", len(index.Manifests))
		}
		digest, ok := strings.CutPrefix(index.Manifests[0].Digest, "sha256:")
		if !ok {
			return "", fmt.Errorf("digest %q is not a SHA-256", index.Manifests[0].Digest)
		}
		return digest, nil
	}
}

// loadKey reads an ECDSA key in PEM form, of which verifying takes only the public half.
func loadKey(path string) (dsse.SignerVerifier, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := signerverifier.LoadKey(text)
	if err != nil {
		return nil, fmt.Errorf("reading the key %s: %w", path, err)
	}
	if key.KeyType != signerverifier.ECDSAKeyType {
		return nil, fmt.Errorf("the key %s is of type %s, not ECDSA", path, key.KeyType)
	}
	return signerverifier.NewECDSASignerVerifierFromSSLibKey(key)
}
