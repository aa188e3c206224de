// SPDX-License-Identifier: Apache-2.0
// Key files for tests of signatures, made anew each time.
#pragma once

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <cstdio>
#include <cstring>
#include <string>

namespace moesaic::testing {

/// <path>.pem and <path>.public.pem.
struct KeyPair {
  std::string private_file, public_file;

  explicit KeyPair(const std::string& path, const char* type = "ED25519")
      : private_file(path + ".pem"), public_file(path + ".public.pem") {
    EVP_PKEY* key = std::strcmp(type, "RSA") == 0
                        ? EVP_PKEY_Q_keygen(nullptr, nullptr, type, static_cast<std::size_t>(1024))
                        : EVP_PKEY_Q_keygen(nullptr, nullptr, type);
    std::FILE* secret = std::fopen(private_file.c_str(), "w");
    std::FILE* open = std::fopen(public_file.c_str(), "w");
    const bool written = key != nullptr && secret != nullptr && open != nullptr &&
                         PEM_write_PrivateKey(secret, key, nullptr, nullptr, 0, nullptr, nullptr) == 1 &&
                         PEM_write_PUBKEY(open, key) == 1;
    if (!written) ADD_FAILURE() << "no key pair";
    for (std::FILE* file : {secret, open}) {
      if (file != nullptr) std::fclose(file);
    }
    EVP_PKEY_free(key);
  }
};

}  // namespace moesaic::testing
