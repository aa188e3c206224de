// SPDX-License-Identifier: Apache-2.0
// SHA-256 by libcrypto.
#include "base/hash.h"

#include <openssl/evp.h>

#include <cstdint>

#include "moesaic/error.h"

namespace moesaic::base {

struct Sha256::Impl {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~Impl() { EVP_MD_CTX_free(context); }
};

namespace {
void require(bool ok) {
  if (!ok) throw Error(ErrorKind::kInternal, "SHA-256: libcrypto refused");
}
}  // namespace

Sha256::Sha256() : impl_(std::make_unique<Impl>()) {
  require(impl_->context != nullptr && EVP_DigestInit_ex(impl_->context, EVP_sha256(), nullptr) == 1);
}

Sha256::~Sha256() = default;

Sha256& Sha256::add_raw(std::string_view bytes) {
  require(EVP_DigestUpdate(impl_->context, bytes.data(), bytes.size()) == 1);
  return *this;
}

Sha256& Sha256::add(std::string_view part) {
  unsigned char length[8];
  for (int i = 0; i < 8; ++i) {
    length[i] = static_cast<unsigned char>(static_cast<std::uint64_t>(part.size()) >> (8 * i));
  }
  add_raw({reinterpret_cast<const char*>(length), sizeof(length)});
  return add_raw(part);
}

std::string Sha256::hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  require(EVP_DigestFinal_ex(impl_->context, digest, &size) == 1);
  return to_hex({reinterpret_cast<const char*>(digest), size});
}

std::string to_hex(std::string_view bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const char byte : bytes) {
    text.push_back(kDigits[static_cast<unsigned char>(byte) >> 4]);
    text.push_back(kDigits[static_cast<unsigned char>(byte) & 15]);
  }
  return text;
}

std::string sha256_hex(std::string_view bytes) { return Sha256().add_raw(bytes).hex(); }

}  // namespace moesaic::base
