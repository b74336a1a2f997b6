from conftest import sample_dialogues
from dialogsum_sft.evaluation.english import SAME, is_english, is_never_a_name, is_ordinary, is_title_word

import pytest


@pytest.mark.parametrize(
    "text",
    [
        "Die Kundin bittet um Rückerstattung, und der Mitarbeiter verspricht eine Antwort. Sie wird mit ihm warten.",
        "Le client demande un remboursement et l'agent promet de répondre. Il est content de la réponse.",
        "La cliente pide un reembolso y el agente promete responder. Ella está contenta con la respuesta.",
        "O cliente pede um reembolso e o agente promete responder. Ele está feliz com a resposta que recebeu.",
        "Il cliente chiede un rimborso e l'agente promette di rispondere. È contento della risposta.",
        "De klant vraagt om een terugbetaling en de medewerker belooft te antwoorden. Hij is niet boos.",
        "Kunden ber om återbetalning och handläggaren lovar svar. Hon är nöjd med svaret som hon fick.",
        "Klient prosi o zwrot pieniędzy, a pracownik obiecuje odpowiedź. Klient czeka na nią i nie dzwoni już więcej.",
        "Asiakas pyytää rahoja takaisin ja asiakaspalvelija lupaa vastata. Hän on tyytyväinen vastaukseen, jonka sai.",
        "Müşteri para iadesi istiyor ve temsilci yanıt vermeyi söz veriyor. Bu bir hafta sürecek.",
        "Khách hàng yêu cầu hoàn tiền và nhân viên hứa trả lời.",
        "Pelanggan meminta uang kembali dan agen berjanji akan menjawab. Dia senang dengan jawaban itu.",
        "小明丢了钥匙。",
        "김씨가 환불을 요청한다.",
        "Клиент просит вернуть деньги.",
        "العميل يطلب استرداد المال.",
    ],
)
def test_other_languages(text: str):
    assert not is_english(text, text)


def test_summary_in_another_language_than_the_dialogue():
    german = "Die Kundin bittet um Geld, und der Mitarbeiter verspricht eine Antwort."
    assert not is_english(german, "Ann: I want my money back, and I want it now.")
    assert not is_english("Ann wants her money back, and she wants it now.", german)


def test_english_and_texts_too_short_to_say():
    for row in sample_dialogues():
        assert all(is_english(reference, row["dialogue"]) for reference in row["references"])
    assert is_english("", "")
    assert is_english("Penicillin, sulfa.", "Doctor: Any allergies?\nPatient: Penicillin and sulfa.")
    assert is_english("Zoë meets José.", "José: I was at the café with Zoë, and it was nice.")
    assert is_english("Maria de la Cruz came to Los Angeles.", "Maria de la Cruz: I came to Los Angeles.")
    assert is_english("Lasix 20 mg PO BID.", "[doctor] um so i'd like you to take lasix twenty milligrams twice a day")


def test_ordinary_words_in_regular_forms():
    words = ["Priority", "Lungs", "Denies", "Planned", "Extremities", "Tenderness", "Gastroscopy", "Departure"]
    assert [word for word in words if not is_ordinary(word)] == []
    people = ["Mark", "Grace", "Baker", "Ann", "Lawrence", "Zoltan", "Smith", "Paris", "Chris"]
    assert [word for word in people if is_ordinary(word)] == []
    assert is_ordinary("Emily")  # an adverb's ending
    assert not is_title_word("Emily")
    assert is_title_word("Managers")


def test_ordinary_words_that_are_names_too():
    assert [
        word for word in ("Psychiatry", "Dermatology", "Patients", "Emergency", "Data") if not is_never_a_name(word)
    ] == []
    assert [word for word in ("Beijing", "Trinity", "Foster", "Hall", "Emily", "Todd") if is_never_a_name(word)] == []
    assert is_ordinary("Hall")


def test_countries_and_their_adjectives():
    for country, adjective in [
        ("france", "french"),
        ("netherlands", "dutch"),
        ("italy", "italian"),
        ("uk", "british"),
    ]:
        assert country in SAME[adjective]
        assert adjective in SAME[country]
