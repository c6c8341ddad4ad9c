#include "engine/text/character_map.h"

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace winnow {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr uint32_t kEndsSpelling = 1 << 8;
constexpr uint32_t kIsValue = 1u << 31;

/// A unit that a byte leads to, from where those behind it are `offset` away.
uint32_t Node(unsigned char byte, uint32_t offset) { return offset << 10 | byte; }

std::string Bytes(const std::vector<uint32_t>& units, const std::string& contents) {
  const auto size = static_cast<uint32_t>(units.size() * sizeof(uint32_t));
  std::string bytes(sizeof(size) + size, '\0');
  std::memcpy(bytes.data(), &size, sizeof(size));
  std::memcpy(bytes.data() + sizeof(size), units.data(), size);
  return bytes + contents;
}

/// A trie of "a", whose text begins at `first`, and "ab", whose begins at `second`.
std::vector<uint32_t> Trie(uint32_t first, uint32_t second) {
  std::vector<uint32_t> units(512);
  units['a'] = Node('a', 256 ^ 'a') | kEndsSpelling;  // what is behind it, from 256 on
  units[256] = kIsValue | first;
  units[256 ^ 'b'] = Node('b', 1) | kEndsSpelling;
  units[256 ^ 'b' ^ 1] = kIsValue | second;
  return units;
}

const std::string kContents("\0one\0two\0", 9);

TEST(CharacterMapTest, LibrariesLookForLongSpellingsOrShortOnes) {
  const auto map = CharacterMap::Parse(Bytes(Trie(1, 5), kContents));
  ASSERT_TRUE(map.ok()) << map.status();
  EXPECT_EQ((*map)->Apply("xabaé"), "xtwooneé");
  EXPECT_EQ((*map)->ApplyToGraphemes("xabaé"),
            "xonebone"
            "é");
  // A mark belongs to what it stands on, and what is long is mapped by code points.
  EXPECT_EQ((*map)->ApplyToGraphemes("a\u0301b"), "oneb");
  EXPECT_EQ((*map)->ApplyToGraphemes("a\u0301\u0302\u0303b"), "one\u0301\u0302\u0303b");
  EXPECT_FALSE((*map)->removes());
  EXPECT_FALSE((*map)->makes_spaces());
}

TEST(CharacterMapTest, BytesThatAreNotUtf8BecomeReplacementCharactersInSentencePieceAlone) {
  const auto map = CharacterMap::Parse(Bytes(Trie(0, 5), kContents));
  ASSERT_TRUE(map.ok()) << map.status();
  EXPECT_TRUE((*map)->removes());
  EXPECT_EQ((*map)->Apply("a\xff\xe2\x82z"), "\uFFFD\uFFFD\uFFFDz");
  EXPECT_EQ((*map)->Apply(std::string(1, '\0') + "ab"), std::string(1, '\0') + "two");
}

TEST(CharacterMapTest, SpacesInARowAreSeen) {
  const auto map = CharacterMap::Parse(Bytes(Trie(0, 1), std::string("\0a  b\0", 6)));
  ASSERT_TRUE(map.ok()) << map.status();
  EXPECT_TRUE((*map)->makes_spaces());
}

TEST(CharacterMapTest, BrokenMapsAreRefused) {
  const std::string whole = Bytes(Trie(1, 5), kContents);
  for (const std::string& bytes : {std::string(), std::string("x"), std::string(8, '\0'),
                                   std::string(8, '\xff'), whole.substr(0, 1000)}) {
    EXPECT_THAT(std::string(CharacterMap::Parse(bytes).status().message()),
                StartsWith("has a trie that does not fit"));
  }
  const auto message = [](const std::string& bytes) {
    return std::string(CharacterMap::Parse(bytes).status().message());
  };
  EXPECT_THAT(message(Bytes(Trie(1, 5), "")), HasSubstr("texts without an end"));
  EXPECT_THAT(message(Bytes(Trie(1, 5), "one")), HasSubstr("texts without an end"));
  EXPECT_THAT(message(Bytes(Trie(1, 9), kContents)), HasSubstr("a text that is not there"));
  std::vector<uint32_t> outside = Trie(1, 5);
  outside['a'] = Node('a', 1 << 20) | kEndsSpelling;
  EXPECT_THAT(message(Bytes(outside, kContents)), HasSubstr("a text that is not there"));
  const std::string longest(33, 'x');
  EXPECT_THAT(message(Bytes(Trie(0, 0), longest + std::string(1, '\0'))),
              HasSubstr("more than 16 times as long"));
}

TEST(CharacterMapTest, ATrieWithoutAnEndTakesLinearTime) {
  std::vector<uint32_t> units = Trie(1, 5);
  units['a'] = Node('a', 'a');  // leads to where it came from
  const auto map = CharacterMap::Parse(Bytes(units, kContents));
  ASSERT_TRUE(map.ok()) << map.status();
  const std::string text(1 << 20, 'a');
  EXPECT_EQ((*map)->Apply(text), text);
}

TEST(CharacterMapTest, AnyBitMayBeWrong) {
  const std::string whole = Bytes(Trie(1, 5), kContents);
  for (size_t i = 0; i < whole.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = whole;
      flipped[i] = static_cast<char>(flipped[i] ^ 1 << bit);
      const auto map = CharacterMap::Parse(flipped);
      if (!map.ok()) continue;
      const std::string text = "xabab a\u0301";
      EXPECT_LE((*map)->Apply(text).size(), CharacterMap::kMaxGrowth * text.size());
      EXPECT_LE((*map)->ApplyToGraphemes(text).size(), CharacterMap::kMaxGrowth * text.size());
    }
  }
}

}  // namespace
}  // namespace winnow
