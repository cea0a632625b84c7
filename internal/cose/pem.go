package cose

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// ParsePublic reads the public key of a file as people have it: PEM with
// "PUBLIC KEY" (PKIX) or "CERTIFICATE" (its key; the first of a chain), or a
// binary COSE_Key. Only the last can have ID and Alg.
func ParsePublic(b []byte) (Key, error) {
	block, rest := pem.Decode(b)
	if block == nil {
		if bytes.Contains(b, []byte("-----BEGIN ")) {
			return Key{}, fmt.Errorf("%w: broken PEM", ErrKey)
		}
		return ParseKey(b)
	}
	// Which of two keys was meant is not ours to guess; what follows the leaf
	// of a chain is no key to choose from.
	for next, more := pem.Decode(rest); next != nil; next, more = pem.Decode(more) {
		if block.Type != pemCertificate || next.Type != pemCertificate {
			return Key{}, fmt.Errorf("%w: PEM file with a second block, %q", ErrKey, next.Type)
		}
	}
	var pub crypto.PublicKey
	var err error
	switch block.Type {
	case pemPublic:
		pub, err = x509.ParsePKIXPublicKey(block.Bytes)
	case pemCertificate:
		var c *x509.Certificate
		if c, err = x509.ParseCertificate(block.Bytes); err == nil {
			pub = c.PublicKey
		}
	case pemPKCS8, pemSEC1, pemPKCS1, pemEncrypted:
		err = errors.New("a private key where a public one belongs")
	default:
		err = fmt.Errorf("PEM block %q is neither %q nor %q", block.Type, pemPublic, pemCertificate)
	}
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	if err := CheckKey(pub); err != nil {
		return Key{}, err
	}
	return Key{Public: pub}, nil
}

const (
	pemPublic      = "PUBLIC KEY"
	pemCertificate = "CERTIFICATE"
	pemPKCS8       = "PRIVATE KEY"
	pemSEC1        = "EC PRIVATE KEY"
	pemPKCS1       = "RSA PRIVATE KEY"
	pemEncrypted   = "ENCRYPTED PRIVATE KEY"
	pemParameters  = "EC PARAMETERS"
)

// ParsePrivatePEM reads a private key: PKCS #8 "PRIVATE KEY", SEC 1 "EC PRIVATE
// KEY" (with or without the "EC PARAMETERS" that openssl puts before it) or
// PKCS #1 "RSA PRIVATE KEY". It must be the only key of the file, unencrypted,
// and pass CheckKey. The error never repeats what was read.
func ParsePrivatePEM(b []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(b)
	if block != nil && block.Type == pemParameters {
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		return nil, fmt.Errorf("%w: not a PEM private key", ErrKey)
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, fmt.Errorf("%w: PEM file with a second block, %q", ErrKey, next.Type)
	}
	if block.Headers["DEK-Info"] != "" {
		return nil, errEncrypted
	}
	var key any
	var err error
	switch block.Type {
	case pemPKCS8:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case pemSEC1:
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case pemPKCS1:
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case pemEncrypted:
		return nil, errEncrypted
	default:
		err = fmt.Errorf("PEM block %q is not a private key", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w: %T cannot sign", ErrKey, key)
	}
	if err := CheckKey(signer.Public()); err != nil {
		return nil, err
	}
	return signer, nil
}

var errEncrypted = fmt.Errorf("%w: the private key is encrypted; decrypt it first (openssl pkey -in KEY -out PLAIN)", ErrKey)

// MarshalPrivatePEM writes k as PKCS #8. A key that lives elsewhere (PKCS #11,
// KMS) cannot be written: ErrKey.
func MarshalPrivatePEM(k crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemPKCS8, Bytes: der}), nil
}

// MarshalPublicPEM writes pub as PKIX.
func MarshalPublicPEM(pub crypto.PublicKey) ([]byte, error) {
	if err := CheckKey(pub); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: der}), nil
}
