// SPDX-License-Identifier: Apache-2.0
// Ed25519 signatures, keys from PEM files (`openssl genpkey -algorithm ed25519`), by libcrypto.
#pragma once

#include <string>
#include <string_view>

namespace moesaic::base {

/// A signature and whose it is, both in hex digits.
struct Signature {
  std::string public_key;  // 64 digits
  std::string bytes;       // 128 digits
};

/// Signs with the private key of a PEM file; asks on the terminal where that is encrypted. Throws Error: kIo (it cannot
/// be read), kInvalidArgument (no Ed25519 private key).
Signature ed25519_sign(const std::string& private_key_file, std::string_view message);
/// The public key of a PEM file in hex digits. Throws Error: kIo, kInvalidArgument.
std::string ed25519_public_key(const std::string& public_key_file);
/// Whether the bytes are the signature of `public_key` (hex digits) under the message.
bool ed25519_verifies(const std::string& public_key, const std::string& signature, std::string_view message);

}  // namespace moesaic::base
