package realtime

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// RSA keys that are shorter can be broken, and a longer one costs more to verify than a client is worth.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// algorithms are those in which a key may verify tokens, by its kind.
func algorithms(key crypto.PublicKey) []string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case *ecdsa.PublicKey:
		return map[int][]string{256: {"ES256"}, 384: {"ES384"}, 521: {"ES512"}}[k.Curve.Params().BitSize]
	case ed25519.PublicKey:
		return []string{"EdDSA"}
	}
	return nil
}

// ParsePublicKey reads a public key that verifies tokens, in PEM: RSA, ECDSA (P-256, P-384, P-521) or Ed25519,
// also of a certificate. Line breaks may be written as \n, as they are where a variable has one line. No error
// repeats the text.
func ParsePublicKey(text string) (crypto.PublicKey, error) {
	block, _ := pem.Decode([]byte(strings.ReplaceAll(text, `\n`, "\n")))
	if block == nil {
		return nil, errors.New("is not PEM: it begins with -----BEGIN PUBLIC KEY-----")
	}
	var key crypto.PublicKey
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var c *x509.Certificate
		if c, err = x509.ParseCertificate(block.Bytes); err == nil {
			key = c.PublicKey
		}
	default:
		if strings.Contains(block.Type, "PRIVATE") {
			return nil, errors.New("is a private key: give the public one, and keep this one where tokens are signed")
		}
		return nil, errors.New("is neither a public key nor a certificate")
	}
	if err != nil {
		return nil, errors.New("is not a public key that can be read")
	}
	return key, checkKey(key)
}

// checkKey refuses keys that no token should be verified with.
func checkKey(key crypto.PublicKey) error {
	if k, ok := key.(*rsa.PublicKey); ok && (k.N.BitLen() < minRSABits || k.N.BitLen() > maxRSABits) {
		return fmt.Errorf("has %d bits: an RSA key needs %d to %d", k.N.BitLen(), minRSABits, maxRSABits)
	}
	if algorithms(key) == nil {
		return errors.New("is not an RSA, ECDSA (P-256, P-384, P-521) or Ed25519 key")
	}
	return nil
}

// jwk is one JSON Web Key (RFC 7517, 7518 and 8037).
type jwk struct {
	Kid    string   `json:"kid"`
	Kty    string   `json:"kty"`
	Use    string   `json:"use"`
	KeyOps []string `json:"key_ops"`
	Alg    string   `json:"alg"`
	Crv    string   `json:"crv"`
	N      string   `json:"n"`
	E      string   `json:"e"`
	X      string   `json:"x"`
	Y      string   `json:"y"`
}

// public returns the key. What is not for verifying signatures is an error, and so is a symmetric key, which
// has no place in a set that anybody may read.
func (j *jwk) public() (crypto.PublicKey, error) {
	if j.Use != "" && j.Use != "sig" || j.KeyOps != nil && !slices.Contains(j.KeyOps, "verify") {
		return nil, errors.New("the key is not for signatures")
	}
	var key crypto.PublicKey
	var err error
	switch j.Kty {
	case "RSA":
		key, err = j.rsa()
	case "EC":
		key, err = j.ecdsa()
	case "OKP":
		key, err = j.ed25519()
	default:
		err = errors.New("the key is not of a kind that we know")
	}
	if err != nil {
		return nil, err
	}
	return key, checkKey(key)
}

func (j *jwk) rsa() (crypto.PublicKey, error) {
	n, err := base64.RawURLEncoding.DecodeString(j.N)
	e, err2 := base64.RawURLEncoding.DecodeString(j.E)
	exponent := new(big.Int).SetBytes(e)
	if err != nil || err2 != nil || exponent.BitLen() < 2 || exponent.BitLen() > 31 || exponent.Bit(0) == 0 {
		return nil, errors.New("the RSA key is malformed")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())}, nil
}

func (j *jwk) ecdsa() (crypto.PublicKey, error) {
	curve := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[j.Crv]
	x, err := base64.RawURLEncoding.DecodeString(j.X)
	y, err2 := base64.RawURLEncoding.DecodeString(j.Y)
	if curve == nil || err != nil || err2 != nil || len(x) != len(y) {
		return nil, errors.New("the ECDSA key is malformed")
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y)) // checks that it is on the curve
	if err != nil {
		return nil, fmt.Errorf("read the ECDSA key: %w", err)
	}
	return key, nil
}

func (j *jwk) ed25519() (crypto.PublicKey, error) {
	x, err := base64.RawURLEncoding.DecodeString(j.X)
	if j.Crv != "Ed25519" || err != nil || len(x) != ed25519.PublicKeySize {
		return nil, errors.New("the Ed25519 key is malformed")
	}
	return ed25519.PublicKey(x), nil
}
