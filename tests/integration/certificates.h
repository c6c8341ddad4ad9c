#pragma once

#include <string>

namespace winnow {

/// A certificate with its private key, as files in PEM.
struct CertificateFiles {
  std::string certificate;
  std::string key;
};

/// A folder of certificates that is gone with this object. They are made by the `openssl` command;
/// a test whose certificates can't be made fails.
class CertificateFolder {
 public:
  CertificateFolder();
  ~CertificateFolder();
  CertificateFolder(const CertificateFolder&) = delete;
  CertificateFolder& operator=(const CertificateFolder&) = delete;

  /// A certification authority called `name`.
  CertificateFiles MakeAuthority(const std::string& name);
  /// A certificate from the authority with the common name `name` and alternative names such as
  /// "DNS:localhost,IP:127.0.0.1".
  CertificateFiles Make(const std::string& name, const std::string& alternative_names,
                        const CertificateFiles& authority);
  /// The path of a file here.
  std::string Path(const std::string& file) const { return folder_ + "/" + file; }

 private:
  std::string folder_;
};

/// The bytes of a file.
std::string Contents(const std::string& path);
/// Replaces a file's contents at once, as secrets should be: readers see the old or the new.
void Replace(const std::string& path, const std::string& contents);

}  // namespace winnow
