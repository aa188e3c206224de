// SPDX-License-Identifier: Apache-2.0
// Signatures against RFC 8032, and keys that are none.
#include "base/ed25519.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/support/expect_error.h"
#include "tests/support/key_pair.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::base {
namespace {

using testing::expect_error;
using testing::KeyPair;
using testing::TemporaryFolder;

// RFC 8032, 7.1, test 2: one byte, 0x72.
constexpr const char* kKey = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
constexpr const char* kSignature =
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00";

TEST(Ed25519, KnownSignatureAndEveryChangeOfIt) {
  EXPECT_TRUE(ed25519_verifies(kKey, kSignature, "\x72"));
  EXPECT_FALSE(ed25519_verifies(kKey, kSignature, "\x73"));
  EXPECT_FALSE(ed25519_verifies(kKey, kSignature, ""));
  const std::string key = kKey, signature = kSignature;
  for (std::size_t i = 0; i < signature.size(); i += 5) {
    std::string other = signature;
    other[i] = other[i] == '0' ? '1' : '0';
    EXPECT_FALSE(ed25519_verifies(key, other, "\x72")) << i;
  }
  for (const std::string& wrong :
       {std::string(), key.substr(2), key + "00", "zz" + key.substr(2), "3D" + key.substr(2)}) {
    EXPECT_FALSE(ed25519_verifies(wrong, signature, "\x72")) << wrong;
    EXPECT_FALSE(ed25519_verifies(key, wrong, "\x72")) << wrong;
  }
}

TEST(Ed25519, SignsWithFilesAndVerifies) {
  const TemporaryFolder folder;
  const KeyPair pair(folder / "a"), other(folder / "b");
  const Signature signature = ed25519_sign(pair.private_file, "text");
  EXPECT_EQ(signature.public_key, ed25519_public_key(pair.public_file));
  std::filesystem::permissions(other.public_file, std::filesystem::perms(0666));
  expect_error(ErrorKind::kIo, {other.public_file, "everybody may write", "chmod go-w"},
               [&] { ed25519_public_key(other.public_file); });
  std::filesystem::permissions(other.public_file, std::filesystem::perms(0644));
  EXPECT_NE(signature.public_key, ed25519_public_key(other.public_file));
  EXPECT_TRUE(ed25519_verifies(signature.public_key, signature.bytes, "text"));
  EXPECT_FALSE(ed25519_verifies(ed25519_public_key(other.public_file), signature.bytes, "text"));
}

TEST(Ed25519, FilesThatHoldNoSuchKeySayHowToMakeOne) {
  const TemporaryFolder folder;
  const KeyPair pair(folder / "a");
  expect_error(ErrorKind::kIo, {"none.pem"}, [&] { ed25519_public_key(folder / "none.pem"); });
  expect_error(ErrorKind::kInvalidArgument, {pair.public_file, "private key", "openssl genpkey"},
               [&] { ed25519_sign(pair.public_file, "text"); });
  expect_error(ErrorKind::kInvalidArgument, {pair.private_file, "public key", "-pubout"},
               [&] { ed25519_public_key(pair.private_file); });
  const KeyPair rsa(folder / "rsa", "RSA");
  expect_error(ErrorKind::kInvalidArgument, {"Ed25519"}, [&] { ed25519_public_key(rsa.public_file); });
  std::ofstream(folder / "text") << "no key";
  expect_error(ErrorKind::kInvalidArgument, {"Ed25519"}, [&] { ed25519_sign(folder / "text", "text"); });
}

}  // namespace
}  // namespace moesaic::base
