from pneumonia.evaluation.error_gallery import UNCERTAIN, ErrorGallery, GalleryImage
from pneumonia.report.evaluation_page import gallery_blocks
from pneumonia.report.render.document import Gallery, Text


def test_page_without_an_error_says_so():
    image = GalleryImage(UNCERTAIN, "i1", "p1", "NORMAL", "NORMAL", 0.51, b"\xff\xd8picture")
    blocks = gallery_blocks(ErrorGallery([image], "explanation"))
    assert any(isinstance(block, Text) and "No image is predicted wrong" in block.text for block in blocks)
    gallery = next(block for block in blocks if isinstance(block, Gallery))
    assert gallery.tiles[0].pictures[0].caption == "NORMAL, correct (0.51): i1"
