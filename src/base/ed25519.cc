// SPDX-License-Identifier: Apache-2.0
// EVP calls; hex digits to and from bytes.
#include "base/ed25519.h"

#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "base/fs.h"
#include "base/hash.h"
#include "base/trust.h"
#include "moesaic/error.h"

namespace moesaic::base {
namespace {

constexpr std::size_t kKeyBytes = 32, kSignatureBytes = 64;
constexpr std::uint64_t kMaxPem = 64 << 10;

using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
using Context = std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)>;
using Bytes = std::vector<unsigned char>;

std::string_view text_of(const Bytes& bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

// Empty where the text is no hex digits of `size` bytes.
Bytes from_hex(const std::string& text, std::size_t size) {
  const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; };
  if (text.size() != 2 * size) return {};
  Bytes bytes;
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const int high = digit(text[i]), low = digit(text[i + 1]);
    if (high < 0 || low < 0) return {};
    bytes.push_back(static_cast<unsigned char>(16 * high + low));
  }
  return bytes;
}

Key read_key(const std::string& file, bool is_private) {
  // Whoever can change the public key decides whose bundles are believed.
  const std::string pem = is_private ? read_file(file, kMaxPem) : read_trusted_file(file, kMaxPem);
  const std::unique_ptr<BIO, decltype(&BIO_free)> bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())),
                                                      BIO_free);
  Key key(nullptr, EVP_PKEY_free);
  if (bio != nullptr) {
    key.reset(is_private ? PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr)
                         : PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr));
  }
  ERR_clear_error();  // the queue belongs to the caller's thread
  if (key == nullptr || EVP_PKEY_get_base_id(key.get()) != EVP_PKEY_ED25519) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("{}: no Ed25519 {} key in PEM; make a pair with `openssl genpkey -algorithm ed25519 -out "
                            "key.pem` and `openssl pkey -in key.pem -pubout -out public.pem`",
                            file, is_private ? "private" : "public"));
  }
  return key;
}

std::string public_hex(const Key& key) {
  Bytes raw(kKeyBytes);
  std::size_t size = raw.size();
  if (EVP_PKEY_get_raw_public_key(key.get(), raw.data(), &size) != 1 || size != raw.size()) {
    throw Error(ErrorKind::kInternal, "Ed25519: libcrypto gives no public key");
  }
  return to_hex(text_of(raw));
}

const unsigned char* bytes_of(std::string_view text) { return reinterpret_cast<const unsigned char*>(text.data()); }

}  // namespace

Signature ed25519_sign(const std::string& private_key_file, std::string_view message) {
  const Key key = read_key(private_key_file, true);
  const Context context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  Bytes bytes(kSignatureBytes);
  std::size_t size = bytes.size();
  if (context == nullptr || EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key.get()) != 1 ||
      EVP_DigestSign(context.get(), bytes.data(), &size, bytes_of(message), message.size()) != 1 ||
      size != bytes.size()) {
    throw Error(ErrorKind::kInternal, "Ed25519: libcrypto refused to sign");
  }
  return {public_hex(key), to_hex(text_of(bytes))};
}

std::string ed25519_public_key(const std::string& public_key_file) {
  return public_hex(read_key(public_key_file, false));
}

bool ed25519_verifies(const std::string& public_key, const std::string& signature, std::string_view message) {
  const Bytes raw = from_hex(public_key, kKeyBytes), bytes = from_hex(signature, kSignatureBytes);
  if (raw.empty() || bytes.empty()) return false;
  const Key key(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, raw.data(), raw.size()), EVP_PKEY_free);
  const Context context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  const bool sound =
      key != nullptr && context != nullptr &&
      EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
      EVP_DigestVerify(context.get(), bytes.data(), bytes.size(), bytes_of(message), message.size()) == 1;
  ERR_clear_error();
  return sound;
}

}  // namespace moesaic::base
