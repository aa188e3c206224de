# Writes OUT: an array of {path, text} of TEXTS (below ROOT), as raw string literals.
set(rows "")
foreach(path ${TEXTS})
  file(READ ${ROOT}/${path} text)
  string(APPEND rows "    {\"${path}\", R\"MOESAICTEXT(${text})MOESAICTEXT\"},\n")
endforeach()
file(WRITE ${OUT}.new "// Generated from kernels/. Do not edit.\n#include \"module/embedded.h\"\n\nnamespace moesaic::module {\n
const EmbeddedText kEmbeddedTexts[] = {\n${rows}    {nullptr, nullptr},\n};\n\n}  // namespace moesaic::module\n")
file(COPY_FILE ${OUT}.new ${OUT} ONLY_IF_DIFFERENT)
file(TOUCH ${OUT})
