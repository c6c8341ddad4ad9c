#include "tests/integration/certificates.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "tests/integration/server_process.h"

namespace winnow {
namespace {

CertificateFiles Request(const std::string& folder, const std::string& name,
                         const std::vector<std::string>& more) {
  const CertificateFiles files = {folder + "/" + name + ".pem", folder + "/" + name + ".key"};
  std::vector<std::string> command = {
      "openssl", "req",    "-x509", "-newkey", "ec",          "-pkeyopt", "ec_paramgen_curve:P-256",
      "-nodes",  "-days",  "2",     "-subj",   "/CN=" + name, "-out",     files.certificate,
      "-keyout", files.key};
  command.insert(command.end(), more.begin(), more.end());
  const CommandResult made = RunCommand(command);
  EXPECT_EQ(made.exit_status, 0) << "is openssl installed? " << made.output;
  return files;
}

}  // namespace

CertificateFolder::CertificateFolder() {
  folder_ = (std::filesystem::temp_directory_path() / "winnow_XXXXXX").string();
  EXPECT_NE(mkdtemp(folder_.data()), nullptr);
}

CertificateFolder::~CertificateFolder() { std::filesystem::remove_all(folder_); }

CertificateFiles CertificateFolder::MakeAuthority(const std::string& name) {
  return Request(folder_, name, {});
}

CertificateFiles CertificateFolder::Make(const std::string& name,
                                         const std::string& alternative_names,
                                         const CertificateFiles& authority) {
  return Request(
      folder_, name,
      {"-CA", authority.certificate, "-CAkey", authority.key, "-addext",
       "subjectAltName=" + alternative_names, "-addext", "basicConstraints=critical,CA:FALSE"});
}

std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void Replace(const std::string& path, const std::string& contents) {
  std::ofstream(path + ".new", std::ios::binary) << contents;
  std::filesystem::rename(path + ".new", path);
}

}  // namespace winnow
